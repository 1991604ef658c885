"""Elementary functions: how far off they are (exact.py), over the whole range, for every instruction set that this
processor has."""
import subprocess
import sys

import numpy as np
import pytest

import exact
import knet
from knet import _core

LEVELS = [level for level in (2, 3, 4) if f"x86-64-v{level}" <= _core.isa()] or [0]  # 0: not an x86-64
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0]
EDGES = {"float32": [1e-45, -1e-45, 1.1754944e-38, -1.1754944e-38, 3.4028235e38, -3.4028235e38, 2.0**24, 2.0**25 + 2],
         "float64": [5e-324, -5e-324, 2.2250738585072014e-308, 1.797693134862315e308, -1.797693134862315e308, 2.0**53]}

CHILD = """
import sys
sys.path[:0] = sys.argv[3:]
import numpy as np
from knet import _core
_core.limit_isa(int(sys.argv[1]))
import test_vmath
np.savez(sys.argv[2], **test_vmath.results())
"""


def special(dtype):
    return np.array(SPECIAL + EDGES[dtype], dtype)


def floats(f):
    """float32 for a function of one: one out of each 2^15, and its interesting range densely."""
    rng = np.random.default_rng(1)
    lo, hi = np.clip(f.domain, -120, 120)
    return np.concatenate([exact.all_floats(0, 2**32, 2**15, rng), np.linspace(lo, hi, 40000, dtype="float32")])


def doubles(f):
    rng = np.random.default_rng(2)
    anywhere = rng.integers(0, 2**64, 100, dtype="uint64").view("float64")
    small = rng.choice([-1, 1], 100) * 2.0 ** rng.uniform(-30, 4, 100)
    lo, hi = f.domain
    return np.concatenate([rng.uniform(lo, hi, 200), rng.uniform(max(lo, -2), min(hi, 2), 100), small, anywhere])


def pairs(f, dtype):
    rng = np.random.default_rng(3)
    n = 30000 if dtype == "float32" else 300
    x, y = rng.standard_normal((2, n)) * 2.0 ** rng.uniform(-8, 6, (2, n))
    if f.name == "power":
        y[::2] = np.log(2.0 ** rng.uniform(*((-149, 128) if dtype == "float32" else (-1074, 1024)), n))[::2] / \
            np.log(np.abs(x[::2]))
        x[::3] = np.abs(x[::3])
        y[1::4] = np.rint(y[1::4])
    if f.name in ("arctan2", "hypot"):
        wild = rng.integers(0, 2**64 if dtype == "float64" else 2**32, (2, n), dtype="uint64")
        wild = wild.view("float64") if dtype == "float64" else wild.astype("uint32").view("float32")
        x[::2], y[::2] = wild[:, ::2]
    s = special(dtype)
    if f.name in ("elu", "celu"):  # the second is a parameter
        y, s = np.abs(y) + 0.01, s[:0]
    a, b = np.meshgrid(s, s)
    return np.concatenate([x, a.ravel()]).astype(dtype), np.concatenate([y, b.ravel()]).astype(dtype)


@np.errstate(all="ignore")
def results():
    """Of this process's instruction set, on all arguments of the tests."""
    out = {}
    for f in exact.UNARY:
        for dtype, x in (("float32", floats(f)), ("float64", doubles(f))):
            op = getattr(knet, f.name)
            out[f"{f.name} {dtype}"] = op(knet.array(x)).numpy()
            out[f"{f.name} {dtype} special"] = op(knet.array(special(dtype))).numpy()
    for f in exact.BINARY:
        for dtype in ("float32", "float64"):
            x, y = pairs(f, dtype)
            out[f"{f.name} {dtype}"] = getattr(knet, f.name)(knet.array(x), knet.array(y)).numpy()
    return out


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """The results of each level: the newest in this process, others in one that is limited to it."""
    out = {LEVELS[-1]: results()}
    for level in LEVELS[:-1]:
        path = tmp_path_factory.mktemp("vmath") / "results.npz"
        subprocess.run([sys.executable, "-c", CHILD, str(level), path, *sys.path], check=True)
        out[level] = dict(np.load(path))
    return out


def check(f, key, off, bound, *arguments):
    at = int(np.argmax(off))
    assert off[at] <= bound, f"{key}: {off[at]} ulp at {[float(a[at]) for a in arguments]}"


@pytest.mark.parametrize("f", exact.UNARY, ids=lambda f: f.name)
def test_float32(f, computed):
    x = floats(f)
    expected = f.numpy(x.astype("float64"))
    for level, r in computed.items():
        check(f, level, exact.ulps32(r[f"{f.name} float32"], expected), f.bounds[0], x)


@pytest.mark.parametrize("f", exact.UNARY, ids=lambda f: f.name)
def test_float64(f, computed):
    x = doubles(f)
    expected = [exact.of(f, v) for v in x]
    for level, r in computed.items():
        off = [exact.ulps64(y, e) for y, e in zip(r[f"{f.name} float64"], expected)]
        check(f, level, off, f.bounds[1], x)


@pytest.mark.parametrize("f", exact.UNARY, ids=lambda f: f.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special(f, dtype, computed):
    x = special(dtype)
    expected = f.numpy(x.astype("float64"))
    for level, r in computed.items():
        y = r[f"{f.name} {dtype} special"]
        if dtype == "float32":
            check(f, level, exact.ulps32(y, expected), f.bounds[0], x)
        else:
            np.testing.assert_allclose(y, expected, rtol=2e-15, atol=1e-323, err_msg=str(level))
        zero = (x == 0) | np.isinf(x)
        assert (np.signbit(y) == np.signbit(expected))[zero & ~np.isnan(y)].all(), (level, x[zero], y[zero])


@pytest.mark.parametrize("f", exact.BINARY, ids=lambda f: f.name)
def test_binary_float32(f, computed):
    x, y = pairs(f, "float32")
    expected = f.numpy(x.astype("float64"), y.astype("float64"))
    for level, r in computed.items():
        z = r[f"{f.name} float32"]
        check(f, level, exact.ulps32(z, expected), f.bounds[0], x, y)
        zero = (expected == 0) & (z == 0)
        assert (np.signbit(z) == np.signbit(expected))[zero].all(), level


@pytest.mark.parametrize("f", exact.BINARY, ids=lambda f: f.name)
def test_binary_float64(f, computed):
    x, y = pairs(f, "float64")
    with_mpmath = np.isfinite(x) & np.isfinite(y) & (f.exact is not None)
    if f.name == "power":
        with_mpmath &= (x > 0) & (np.abs(y) < 1e4)
    if f.name == "arctan2":
        with_mpmath &= (x != 0) & (y != 0)
    expected = f.numpy(x, y)
    for level, r in computed.items():
        z = r[f"{f.name} float64"]
        np.testing.assert_allclose(z[~with_mpmath], expected[~with_mpmath], rtol=2e-15, atol=1e-14, err_msg=str(level))
        off = [exact.ulps64(z[i], exact.of(f, x[i], y[i])) for i in np.flatnonzero(with_mpmath)]
        if off:
            check(f, level, off, f.bounds[1], x[with_mpmath], y[with_mpmath])
