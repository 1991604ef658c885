"""Products with few columns, which have ways of their own: against float64, on each instruction set."""
import os
import subprocess
import sys

import numpy as np
import pytest

import knet
from knet import _core

LEVELS = [level for level in (2, 3, 4) if f"x86-64-v{level}" <= _core.isa()] or [0]  # 0: not an x86-64


def check_all():
    r = np.random.default_rng(0)
    for dtype, near in (("float32", 1e-6), ("float64", 2e-15)):
        for n in range(1, 19):
            for m, k in ((1, 40), (2, 300), (13, 1000), (50, 33), (97, 17), (100, 784)):
                a, b = r.random((m, k)).astype(dtype), r.random((k, n)).astype(dtype)
                exact = a.astype("float64") @ b.astype("float64")
                turned = knet.array(np.ascontiguousarray(a.T)).T  # the same by columns
                for x in (knet.array(a), turned):
                    for y in (knet.array(b), knet.array(np.ascontiguousarray(b.T)).T):
                        result = (x @ y).numpy()
                        assert np.abs(result - exact).max() <= near * k, (dtype, m, k, n)


@pytest.mark.parametrize("level", LEVELS)
def test_few_columns(level):
    code = f"from knet import _core; _core.limit_isa({level}); import test_products; test_products.check_all()"
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_threads_do_not_change_bits():
    r = np.random.default_rng(1)
    a, b = (knet.array(r.random(s).astype("float32")) for s in ((3000, 784), (784, 11)))
    before = knet.config.threads
    try:
        seen = set()
        for threads in (1, 2, 3, 4, 7):
            knet.config.threads = threads
            seen.add((a @ b).numpy().tobytes())
        assert len(seen) == 1
    finally:
        knet.config.threads = before
