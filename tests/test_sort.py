"""sort, argsort and topk: every type, length, axis and order, ties and NaN included, on every instruction set that this
processor has. Values must have NumPy's bits (after a stable sort), so zeros keep their signs."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from arrays import DTYPES

import knet
from knet import _core, grad

LEVELS = [level for level in (2, 3, 4) if f"x86-64-v{level}" <= _core.isa()] or [0]  # 0: not an x86-64
FEW = [0, 1, 2, 3, 16, 17, 32, 63, 64, 65, 130, 256, 300, 2048, 5000]
SHAPES = [((5, 300), 0), ((5, 300), 1), ((3, 50, 7), 1), ((70, 40), 0), ((2, 3000, 5), 1),
          ((2, 3, 0), 1), ((2, 0, 3), 1)]
LONG = [((70000,), 0), ((66000, 2), 0), ((20000, 9), 0)]


def plain(rng, shape, dtype):
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def ties(rng, shape, dtype):
    """Few different values; zeros of both signs."""
    if dtype.kind == "f":
        return (rng.integers(-3, 4, shape) / 2 * rng.choice([1, -1], shape)).astype(dtype)
    return rng.integers(-3 if dtype.kind == "i" else 0, 4, shape).astype(dtype)


def special(rng, shape, dtype):
    x = ties(rng, shape, dtype)
    if dtype.kind == "f":
        x = np.where(rng.random(shape) < 0.3, rng.choice([np.nan, -np.nan, np.inf, -np.inf], shape), x).astype(dtype)
    return x


def near(rng, shape, dtype):
    """All but one so close to each other that they differ in their last bits alone."""
    if dtype.kind == "f":
        x = (1 + rng.integers(0, 100000, shape) * np.finfo(dtype).eps).astype(dtype)
    else:
        x = rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    x[..., :1] = True if dtype.kind == "b" else np.iinfo(dtype).max if dtype.kind in "iu" else np.finfo(dtype).max
    return x


def expected(x, axis, descending):
    """Indices. A stable sort downwards is one upwards of the negated, with NaN last all the same."""
    key = x if not descending else -x if x.dtype.kind == "f" else ~x
    return np.argsort(key, axis=axis, kind="stable")


def same(a, b):
    a = np.asarray(a)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == np.ascontiguousarray(b).tobytes()


def check(x, axis):
    ours, n = knet.array(x), x.shape[axis]
    for descending in (False, True):
        case = (x.dtype, x.shape, axis, descending)
        indices = expected(x, axis, descending)
        values = np.take_along_axis(x, indices, axis)
        assert same(knet.sort(ours, axis=axis, descending=descending), values), case
        assert same(knet.argsort(ours, axis=axis, descending=descending), indices), case
        for k in sorted({0, min(1, n), min(3, n), n // 5, n}):
            first, where = knet.topk(ours, k, axis=axis, largest=descending)
            assert same(where, np.take(indices, range(k), axis)), (*case, k)
            assert same(first, np.take(values, range(k), axis)), (*case, k)
        first = knet.topk(ours, n // 6, axis=axis, largest=descending)[0]  # no indices wanted
        assert same(first, np.take(values, range(n // 6), axis)), case


def check_all():
    knet.config.threads = 1
    for dtype in map(np.dtype, DTYPES):
        rng = np.random.default_rng(1)
        for n in (*range(301), 1000, 2047, 2048, 5000) if dtype.name in ("float32", "int64") else FEW:
            for make in (plain, special) if n % 3 else (ties, near):
                check(make(rng, (n,), dtype), 0)
        for shape, axis in SHAPES:
            for make in (plain, ties, special, near):
                check(make(rng, shape, dtype), axis)
    for dtype in map(np.dtype, ("uint8", "float32", "float64")):
        for shape, axis in LONG:
            for knet.config.threads, make in ((1, plain), (3, plain), (3, special), (1, near), (3, near)):
                check(make(rng, shape, dtype), axis)


@pytest.mark.parametrize("level", LEVELS)
def test_sort(level):
    code = f"from knet import _core; _core.limit_isa({level}); import test_sort; test_sort.check_all()"
    path = [str(Path(__file__).parent), *sys.path]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"], check=True, timeout=600)


def test_both_results_and_each_alone():
    x = np.random.default_rng(0).standard_normal((4, 50)).astype("float32")
    values, indices = knet.sort(knet.array(x)), knet.argsort(knet.array(x))
    assert same(values, np.sort(x)) and same(indices, np.argsort(x))
    a = knet.array(x)
    values, indices = knet.sort(a), knet.argsort(a)  # one kernel
    total = values.sum() + indices.sum()
    assert same(values, np.sort(x)) and same(indices, np.argsort(x)) and np.isfinite(total.item())


def test_top_has_the_gradient_of_sort():
    x = knet.array(np.random.default_rng(0).standard_normal((6, 100)))
    w = knet.array(np.random.default_rng(1).standard_normal((6, 3)))
    ours = grad(lambda x: (knet.topk(x, 3)[0] ** 2 * w).sum())
    whole = grad(lambda x: (knet.sort(x, descending=True)[:, :3] ** 2 * w).sum())
    assert same(ours(x), np.asarray(whole(x)))
    assert grad(lambda x: (knet.topk(x, 0)[0] * 2).sum())(x).tolist() == np.zeros((6, 100)).tolist()
