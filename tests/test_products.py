"""Products with few columns, which have ways of their own, and with many: against float64, on each instruction set."""
import os
import subprocess
import sys

import numpy as np
import pytest

import knet
from knet import _core

LEVELS = [level for level in (2, 3, 4) if f"x86-64-v{level}" <= _core.isa()] or [0]  # 0: not an x86-64


FEW = [(m, k, n) for n in range(1, 19) for m, k in ((1, 40), (2, 300), (13, 1000), (50, 33), (97, 17), (100, 784))]
# Several blocks of the sum, of rows and of columns, whole and not.
MANY = [(m, k, n) for m, n in ((3, 140), (15, 129), (29, 200), (270, 113)) for k in (7, 100, 256, 531)]


def check(sizes):
    r = np.random.default_rng(0)
    for dtype, near in (("float32", 1e-6), ("float64", 2e-15)):
        for m, k, n in sizes:
            a, b = r.random((m, k)).astype(dtype), r.random((k, n)).astype(dtype)
            exact = a.astype("float64") @ b.astype("float64")
            turned = knet.array(np.ascontiguousarray(a.T)).T  # the same by columns
            for x in (knet.array(a), turned):
                for y in (knet.array(b), knet.array(np.ascontiguousarray(b.T)).T):
                    result = (x @ y).numpy()
                    assert np.abs(result - exact).max() <= near * k, (dtype, m, k, n)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sizes", ["FEW", "MANY"])
def test_products(level, sizes):
    code = f"from knet import _core; _core.limit_isa({level}); import test_products as t; t.check(t.{sizes})"
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize("m, k, n", [(3000, 784, 11), (600, 500, 300), (300, 9000, 90)])
@pytest.mark.parametrize("turned", ["", "a", "b"])
def test_threads_do_not_change_bits(m, k, n, turned):
    r = np.random.default_rng(1)
    a, b = (knet.array(r.random(s[::-1] if name == turned else s).astype("float32"))
            for name, s in (("a", (m, k)), ("b", (k, n))))
    before = knet.config.threads
    try:
        seen = set()
        for threads in (1, 2, 3, 4, 7):
            knet.config.threads = threads
            seen.add(((a.T if turned == "a" else a) @ (b.T if turned == "b" else b)).numpy().tobytes())
        assert len(seen) == 1
    finally:
        knet.config.threads = before
