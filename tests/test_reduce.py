"""Reductions over any axes: narrow and wide columns, short and long rows, several axes, on every instruction set that
this processor has, with the same bits for any number of threads."""
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import knet
from knet import _core

LEVELS = [level for level in (2, 3, 4) if f"x86-64-v{level}" <= _core.isa()] or [0]  # 0: not an x86-64
SHAPES = [(3, 100, 1), (4, 257, 3), (5, 333, 10), (2, 1000, 63), (3, 40, 300), (7, 5, 1100), (2, 3, 20000), (64, 9, 33),
          (3, 70, 64, 5), (2, 70, 3, 65), (1, 40000, 2), (300, 300)]
KINDS = ["sum", "prod", "max", "min", "any", "all"]


def values(rng, shape, dtype, kind):
    if dtype.kind == "f":
        x = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        if kind == "prod":
            x = x / np.abs(x) * 2.0 ** (rng.integers(-1, 2, shape) * (rng.random(shape) < 0.002))  # exact
        elif kind in ("max", "min"):
            x[rng.random(shape) < 0.001] = np.nan
        elif kind != "sum":
            x[rng.random(shape) < (0.999 if kind == "any" else 0.001)] = 0
        return x.astype(dtype)
    x = rng.integers(-100, 100, shape)
    return (x if kind != "prod" else x | 1).astype(dtype)


def check_all():
    rng = np.random.default_rng(1)
    for dtype, shape in itertools.product(map(np.dtype, ("float32", "float64", "int8", "int64")), SHAPES):
        axes = [a for k in range(1, len(shape) + 1) for a in itertools.combinations(range(len(shape)), k)]
        for kind in KINDS:
            x = values(rng, shape, dtype, kind)
            ours = knet.array(x)
            for axis in axes:
                case = (kind, dtype, shape, axis)
                want = getattr(np, kind)(x.astype("float64") if kind == "sum" and dtype.kind == "f" else x, axis=axis)
                bits = set()
                for knet.config.threads in (1, 3):
                    got = np.asarray(getattr(knet, kind)(ours, axis=axis))
                    bits.add(got.tobytes())
                assert len(bits) == 1, case
                if kind == "sum" and dtype.kind == "f":
                    bound = 2 * np.finfo(dtype).eps * np.abs(x).sum(axis=axis, dtype="float64")
                    assert (np.abs(got - want) <= bound).all(), case
                else:
                    assert np.array_equal(got, want, equal_nan=dtype.kind == "f"), case
        for axis, kind in itertools.product(range(len(shape)), ("argmax", "argmin")):
            x = values(rng, shape, dtype, kind[3:])
            ours = knet.array(x)
            got = {np.asarray(getattr(knet, kind)(ours, axis=axis)).tobytes() for knet.config.threads in (1, 3)}
            assert got == {getattr(np, kind)(x, axis).astype("int64").tobytes()}, (kind, dtype, shape, axis)


@pytest.mark.parametrize("level", LEVELS)
def test_reductions(level):
    code = f"from knet import _core; _core.limit_isa({level}); import test_reduce; test_reduce.check_all()"
    path = [str(Path(__file__).parent), *sys.path]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"], check=True, timeout=600)
