"""Reductions over any axes: narrow and wide columns, short and long rows, several axes, alone and inside formulas whose
rows are longer than a tile, on every instruction set that this processor has, with the same bits for any number of
threads. A division by one number has the bits of the division."""
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


def rows_and_columns(m, x, scale):
    """Sums along rows that need each other, and ends of every kind."""
    d = x - x.mean(axis=-1, keepdims=True)
    y = d / m.sqrt((d * d).mean(axis=-1, keepdims=True) + 1e-5) * scale
    e = m.exp(y - y.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return [y, p, p.sum(axis=0), (-(y * p)).sum(axis=-1), (y * y).sum(), (-y).sum(axis=-1), (y * p).max(axis=-1), -p.T]


def check_long_rows():
    rng = np.random.default_rng(2)
    for n, dtype in itertools.product((1023, 2047, 2048, 2049, 5000, 6272, 16384), ("float32", "float64")):
        x, scale = rng.standard_normal((9, n)).astype(dtype), rng.standard_normal(n).astype(dtype)
        wants = rows_and_columns(np, x.astype("float64"), scale.astype("float64"))
        bits = set()
        for knet.config.threads in (1, 3):
            gots = [np.asarray(y) for y in rows_and_columns(knet, knet.array(x), knet.array(scale))]
            bits.add(b"".join(y.tobytes() for y in gots))
            for got, want in zip(gots, wants):
                assert np.abs(got - want).max() <= 2e3 * np.finfo(dtype).eps * max(1, np.abs(want).max()), (n, dtype)
        assert len(bits) == 1, (n, dtype)


def check_division():
    rng = np.random.default_rng(3)
    for y in (3.7, 1e-3, -2.9, 7e10, 1 / 3, -1e-15, 3e30, 2, -0.5, 1e-40, np.inf, np.nan, 0):
        for n in (5, 32, 47, 1000):
            for x in (rng.standard_normal(n), rng.standard_normal(n) * np.exp2(rng.integers(-140, 127, n))):
                x[::7], x[3] = 0, -0.0
                x[4] = rng.choice([np.nan, np.inf, 1])
                x = x.astype("float32")
                with np.errstate(all="ignore"):
                    want = x / np.float32(y)
                got = np.asarray(knet.array(x) / knet.array(np.float32(y)))
                number = ~np.isnan(want)
                assert (np.isnan(got) != number).all() and (got[number] == want[number]).all(), (y, n)
                assert (np.signbit(got) == np.signbit(want))[number].all(), (y, n)


@pytest.mark.parametrize("check", ["check_all", "check_long_rows", "check_division"])
@pytest.mark.parametrize("level", LEVELS)
def test_reductions(level, check):
    code = f"from knet import _core; _core.limit_isa({level}); import test_reduce; test_reduce.{check}()"
    path = [str(Path(__file__).parent), *sys.path]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"], check=True, timeout=600)
