"""What the elementary functions should give, and how far off a result is, in units of the last place (ulp).

For test_vmath.py and benchmarks/accuracy.py. float32 results are compared with NumPy in float64, float64 results with
mpmath in 40 digits.
"""
import collections
import math

import mpmath
import numpy as np

MP = mpmath.MPContext()
MP.dps = 40

# `numpy`: float64 in, float64 out; `exact`: numbers of MP; `domain`: where float64 arguments are drawn from beside the
# whole range; `bounds`: what a float32 and a float64 result may be off by.
Function = collections.namedtuple("Function", "name numpy exact domain bounds", defaults=((1, 1),))


def _each(f):
    f = np.frompyfunc(f, 1, 1)
    return lambda x: f(x).astype("float64")


def _limit(at, value, f):
    """f, and its limit where it would be NaN."""
    return lambda x: np.where(x == at, value, f(x))


def _sigm(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _mish(x):
    e = np.exp(np.minimum(x, 40))
    n = e * (e + 2)
    return np.where(x > 40, x, x * (n / (n + 2)))


def _exact_sigm(x):
    return 1 / (1 + MP.exp(-x))


def _exact_softplus(x):
    return MP.log1p(MP.exp(-abs(x))) + max(x, 0)


def _exact_mish(x):
    e = MP.exp(x)
    n = e * (e + 2)
    return x * n / (n + 2)


def _exact_erfc(x):
    return MP.erfc(max(min(x, 40), -40))  # beyond it is 0 and 2 for a float64


def _exact_sinc(x):
    return MP.sinpi(x) / (MP.pi * x) if x else MP.mpf(1)


def _sinc(x):
    """NumPy's takes the sine of a rounded pi x."""
    k = np.rint(x)
    s = np.sin(np.pi * (x - k)) * np.where(np.remainder(k, 2) == 1, -1, 1)
    return np.where(x == 0, 1, s / (np.pi * np.where(x == 0, 1, x)))


SELU_SCALE, SELU_ALPHA = 1.05070098735548049342, 1.67326324235437728482
SELU = [MP.mpf(s) for s in ("1.0507009873554804934193349852946", "1.6732632423543772848170429916717")]

UNARY = [
    Function("exp", np.exp, MP.exp, (-745, 709)),
    Function("exp2", np.exp2, lambda x: MP.power(2, x), (-1074, 1024)),
    Function("exp10", lambda x: np.power(10.0, x), lambda x: MP.power(10, x), (-323, 308)),
    Function("expm1", np.expm1, MP.expm1, (-40, 709)),
    Function("log", np.log, MP.log, (0, 3)),
    Function("log2", np.log2, lambda x: MP.log(x, 2), (0, 3)),
    Function("log10", np.log10, MP.log10, (0, 3)),
    Function("log1p", np.log1p, MP.log1p, (-1, 3)),
    Function("sin", np.sin, MP.sin, (-1000, 1000)),
    Function("cos", np.cos, MP.cos, (-1000, 1000)),
    Function("tan", np.tan, MP.tan, (-1000, 1000)),
    Function("arcsin", np.arcsin, MP.asin, (-1, 1)),
    Function("arccos", np.arccos, MP.acos, (-1, 1)),
    Function("arctan", np.arctan, MP.atan, (-9, 9)),
    Function("sinh", np.sinh, MP.sinh, (-20, 20)),
    Function("cosh", np.cosh, MP.cosh, (-20, 20)),
    Function("tanh", np.tanh, MP.tanh, (-20, 20)),
    Function("arcsinh", np.arcsinh, MP.asinh, (-20, 20)),
    Function("arccosh", np.arccosh, MP.acosh, (1, 20)),
    Function("arctanh", np.arctanh, MP.atanh, (-1, 1)),
    Function("sqrt", np.sqrt, MP.sqrt, (0, 9), (0.5, 0.5)),
    Function("cbrt", np.cbrt, lambda x: MP.sign(x) * MP.cbrt(abs(x)), (-9, 9)),
    Function("sinc", _sinc, _exact_sinc, (-20, 20)),
    Function("sigm", _sigm, _exact_sigm, (-745, 40)),
    Function("softplus", lambda x: np.logaddexp(0, x), _exact_softplus, (-40, 40), (1, 1.25)),
    Function("log_sigmoid", lambda x: -np.logaddexp(0, -x), lambda x: -_exact_softplus(-x), (-40, 40), (1, 1.25)),
    Function("swish", _limit(-np.inf, -0.0, lambda x: x * _sigm(x)), lambda x: x * _exact_sigm(x), (-745, 40)),
    Function("mish", _limit(-np.inf, -0.0, _mish), _exact_mish, (-745, 40), (1, 1.5)),
    Function("selu", lambda x: SELU_SCALE * np.where(x >= 0, x, SELU_ALPHA * np.expm1(x)),
             lambda x: SELU[0] * (x if x >= 0 else SELU[1] * MP.expm1(x)), (-40, 40), (1, 2)),
    Function("erf", _each(math.erf), MP.erf, (-6, 6)),
    Function("erfc", _each(math.erfc), _exact_erfc, (-6, 27), (1, 3)),
    Function("gelu", _limit(-np.inf, -0.0, lambda x: x * 0.5 * _each(math.erfc)(-x / math.sqrt(2))),
             lambda x: x * _exact_erfc(-x / MP.sqrt(2)) / 2, (-38, 10), (1, 3)),
]
BINARY = [
    Function("power", np.power, MP.power, None),
    Function("arctan2", np.arctan2, MP.atan2, None),
    Function("hypot", np.hypot, MP.hypot, None),
    Function("logaddexp", np.logaddexp, None, None),
    Function("logaddexp2", np.logaddexp2, None, None),
    Function("elu", lambda x, a: np.where(x >= 0, x, a * np.expm1(x)),
             lambda x, a: x if x >= 0 else a * MP.expm1(x), None, (1, 2)),
    Function("celu", lambda x, a: np.where(x >= 0, x, a * np.expm1(x / a)), None, None),
]


def ulps32(got, expected):
    """How far float32 results are from float64 ones; infinity where only one of the two is NaN."""
    got, expected = got.astype("float64"), np.asarray(expected, "float64")
    top = 2.0 ** 128
    over = np.abs(expected) >= top - 2.0 ** 103  # rounds to infinity
    expected = np.where(over, np.copysign(top, expected), expected)
    got = np.where(np.isinf(got), np.copysign(top, got), got)
    _, e = np.frexp(np.minimum(np.abs(expected), top / 2))
    off = np.abs(got - expected) / np.ldexp(1.0, np.maximum(e - 24, -149))
    off = np.where(np.isnan(got) & np.isnan(expected), 0, off)
    return np.where(np.isnan(off), np.inf, off)


def ulps64(got, expected):
    """How far a float64 is from a number of MP; a complex one stands for NaN."""
    got = float(got)
    if isinstance(expected, MP.mpc) or MP.isnan(expected) or math.isnan(got):
        return 0.0 if math.isnan(got) and (isinstance(expected, MP.mpc) or MP.isnan(expected)) else math.inf
    top = MP.mpf(2) ** 1024
    size = min(abs(expected), top)
    if size >= top - MP.mpf(2) ** 970:
        expected, size = MP.sign(expected) * top, top / 2
    value = MP.mpf(got) if math.isfinite(got) else math.copysign(1, got) * top
    e = MP.frexp(size)[1] if size else -2000
    return float(abs(value - expected) / MP.mpf(2) ** max(e - 53, -1074))


def of(f, *arguments):
    """The exact value for float64 arguments; NaN where there is none."""
    if not all(map(math.isfinite, arguments)):
        return MP.nan if any(map(math.isnan, arguments)) else MP.mpf(float(f.numpy(*map(np.float64, arguments))))
    try:
        return f.exact(*map(MP.mpf, map(float, arguments)))
    except (ValueError, ZeroDivisionError):
        return MP.mpf(float(f.numpy(*map(np.float64, arguments))))


def all_floats(start, stop, step, rng=None):
    """The float32 with the bits start, start + step, ...; with `rng` one at random out of each step."""
    bits = np.arange(start, stop, step, dtype="uint64")
    if rng is not None:
        bits = bits + rng.integers(0, step, len(bits), dtype="uint64")
    return bits.astype("uint32").view("float32")
