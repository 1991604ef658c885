"""Elementwise operations: one scalar C expression each, with its derivative beside it.

In the expressions a, b, c are the inputs, T is their type, and vm:: is the vector math library. Derivatives use the
result y where that is cheaper. Conventions at kinks and poles, here and in reductions:

- relu, abs, sign, hypot and norms: 0 at 0. (relu(x) and maximum(0, x) differ there, see next.)
- maximum, minimum, max, min: inputs that tie share the gradient equally, so that it sums to dy.
- clip: dy goes to x inside and on the bounds.
- power: x ** 0 has derivative 0 everywhere, and x <= 0 gives no NaN unless the exponent is itself differentiated
  (and even then none at x == 0 while the exponent is >= 0).
- NaN: max and min functions propagate it, fmax and fmin ignore it.
"""
import math

from .define import as_array, elementwise, function, np, ops, sample

LN2, LN10 = math.log(2), math.log(10)
PI = math.pi


def _each(fn):
    """A reference for one NumPy array from a function of one Python float."""
    return lambda x: np.vectorize(fn, otypes=[float])(x)


# ---- arithmetic

add = elementwise(
    "add", "a, b", c="a + b", c_bool="a || b", commutative=True, reference="add",
    grad=(lambda dy, y, a, b: dy, lambda dy, y, a, b: dy),
    doc="a + b; of bools, or.")

subtract = elementwise(
    "subtract", "a, b", c="a - b", reference="subtract",
    grad=(lambda dy, y, a, b: dy, lambda dy, y, a, b: -dy),
    doc="a - b.")

multiply = elementwise(
    "multiply", "a, b", c="a * b", c_bool="a && b", commutative=True, reference="multiply",
    grad=(lambda dy, y, a, b: dy * b, lambda dy, y, a, b: dy * a),
    doc="a * b; of bools, and.")

divide = elementwise(
    "divide", "a, b", rule="Float", c="a / b", aliases=("true_divide",), reference="divide", numpy=("true_divide",),
    domain=[(-2, 2), [(-2, -0.5), (0.5, 2)]],
    grad=(lambda dy, y, a, b: dy / b, lambda dy, y, a, b: -(dy / b) * y),
    doc="a / b, always in floats.")

floor_divide = elementwise(
    "floor_divide", "a, b", c="vm::floordiv(a, b)", reference="floor_divide",
    domain=[(-9, 9), [(-2, -0.5), (0.5, 2)]],
    doc="The largest integer that is not above a / b. Integers divided by 0 give 0.")

remainder = elementwise(
    "remainder", "a, b", c="vm::floormod(a, b)", aliases=("mod",), reference="remainder", numpy=("mod",),
    domain=[(0.1, 0.9), [(-2, -1), (1, 2)]],
    grad=(lambda dy, y, a, b: dy, lambda dy, y, a, b: -dy * floor(a / b)),
    doc="a - b * floor(a / b): the remainder with the sign of b, Python's %. Integers divided by 0 give 0.")

fmod = elementwise(
    "fmod", "a, b", c="vm::fmod(a, b)", reference="fmod", domain=[(1.1, 1.9), [(-1, -0.98), (0.98, 1)]],
    grad=(lambda dy, y, a, b: dy, lambda dy, y, a, b: -dy * trunc(a / b)),
    doc="The remainder with the sign of a, as in C. Integers divided by 0 give 0.")

# The guard replaces a only where a and b are both 0: there b * a**(b - 1) would be 0 * inf, and is 0.
power = elementwise(
    "power", "a, b", c="vm::pow(a, b)", aliases=("pow",), reference="power", numpy=("pow",),
    domain=[(0.3, 2), (-2, 3)], ints=[(-5, 5), (0, 4)],
    grad=(lambda dy, y, a, b: dy * b * power(where(logical_and(a == 0, b == 0), 1, a), b - 1),
          lambda dy, y, a, b: dy * y * log(where(a == 0, 1, a))),
    doc="a ** b. Of integers with a negative exponent: the quotient 1 / a**-b cut to an integer.")


@function(reference="float_power", domain=(0.3, 2), samples=(sample((3, 4), 2), sample((3, 4), (4,))))
def float_power(a, b):
    """a ** b, computed in float64."""
    return power(cast(a, "float64"), b)


negative = elementwise(
    "negative", "x", c="-a", reference="negative",
    grad=(lambda dy, y, x: -dy,),
    doc="-x.")

positive = elementwise(
    "positive", "x", c="a", reference="positive",
    grad=(lambda dy, y, x: dy,),
    doc="x itself.")

absolute = elementwise(
    "absolute", "x", c="vm::abs(a)", c_int="a < T(0) ? T(-a) : a", c_bool="a", aliases=("abs",), reference="absolute",
    numpy=("abs",), domain=([(-2, -0.1), (0.1, 2)],),
    grad=(lambda dy, y, x: dy * sign(x),),
    doc="|x|, the absolute value; its derivative at 0 is 0.")

fabs = elementwise(
    "fabs", "x", rule="Float", c="vm::abs(a)", reference="fabs", domain=([(-2, -0.1), (0.1, 2)],),
    grad=(lambda dy, y, x: dy * sign(x),),
    doc="|x|, always in floats.")

sign = elementwise(
    "sign", "x", c="vm::sign(a)", c_int="T((a > T(0)) - (a < T(0)))", reference="sign",
    domain=([(-2, -0.1), (0.1, 2)],),
    doc="The sign of x: -1, 0 or 1, in the type of x; NaN stays NaN.")

square = elementwise(
    "square", "x", c="a * a", aliases=("abs2",), reference="square",
    grad=(lambda dy, y, x: 2 * dy * x,),
    doc="x * x.")

reciprocal = elementwise(
    "reciprocal", "x", rule="Float", c="T(1) / a", aliases=("invx",), reference=lambda x: 1 / np.asarray(x),
    domain=([(-2, -0.5), (0.5, 2)],), numpy=("reciprocal",),
    grad=(lambda dy, y, x: -dy * y * y,),
    doc="1 / x, always in floats.")

sqrt = elementwise(
    "sqrt", "x", rule="Float", c="vm::sqrt(a)", reference="sqrt", domain=(0.2, 3),
    grad=(lambda dy, y, x: 0.5 * dy / y,),
    doc="The square root; NaN below 0.")

cbrt = elementwise(
    "cbrt", "x", rule="Float", c="vm::cbrt(a)", reference="cbrt", domain=([(-2, -0.3), (0.3, 2)],),
    grad=(lambda dy, y, x: dy / (3 * y * y),),
    doc="The cube root, of negative numbers too.")


# ---- rounding (derivative 0)

rint = elementwise("rint", "x", rule="Float", c="vm::rint(a)", reference="rint", domain=(0.1, 0.4),
                   doc="The nearest integer, of two the even one.")
floor = elementwise("floor", "x", c="vm::floor(a)", c_int="a", c_bool="a", reference="floor", domain=(0.1, 0.9),
                    doc="The largest integer that is not above x.")
ceil = elementwise("ceil", "x", c="vm::ceil(a)", c_int="a", c_bool="a", reference="ceil", domain=(0.1, 0.9),
                   doc="The smallest integer that is not below x.")
trunc = elementwise("trunc", "x", c="vm::trunc(a)", c_int="a", c_bool="a", aliases=("fix",), reference="trunc",
                    numpy=("fix",), domain=(0.1, 0.9),
                    doc="x without its fraction.")


@function(reference="round", numpy=("around",), aliases=("around",), domain=(0.01, 0.04), samples=(
    sample((3, 4)), sample((3, 4), decimals=1), sample((3, 4), decimals=-1)))
def round(x, decimals=0):
    """x rounded to so many decimal places, halves to even; integers stay integers."""
    x = as_array(x)
    if not -308 <= decimals <= 308:
        raise ValueError(f"[round] {decimals} decimals: there are at most 308. Leave the numbers as they are.")
    if str(x.dtype).startswith(("int", "uint", "bool")):
        return cast(x, x.dtype) if decimals >= 0 else cast(rint(x / 10**-decimals) * 10**-decimals, x.dtype)
    if decimals == 0:
        return rint(x)
    return rint(x * 10**decimals) / 10**decimals if decimals > 0 else rint(x / 10**-decimals) * 10**-decimals


@function(reference="divmod", samples=(sample((3, 4), lambda rng: rng.uniform(1, 2, (3, 4))),))
def divmod(a, b):
    """The pair floor_divide(a, b), remainder(a, b)."""
    return floor_divide(a, b), remainder(a, b)


@function(reference="modf", domain=(0.1, 0.9), samples=(sample((3, 4)),))
def modf(x):
    """The fraction and the whole part of x, both with its sign."""
    x = as_array(x)
    x = x if "float" in str(x.dtype) else divide(x, 1)
    whole = trunc(x)
    return copysign(where(isinf(x), 0, x - whole), x), whole


# ---- exponentials and logarithms

exp = elementwise(
    "exp", "x", rule="Float", c="vm::exp(a)", reference="exp",
    grad=(lambda dy, y, x: dy * y,),
    doc="e ** x.")

exp2 = elementwise(
    "exp2", "x", rule="Float", c="vm::exp2(a)", reference="exp2",
    grad=(lambda dy, y, x: LN2 * dy * y,),
    doc="2 ** x.")

exp10 = elementwise(
    "exp10", "x", rule="Float", c="vm::exp10(a)", reference=lambda x: np.power(10.0, x),
    grad=(lambda dy, y, x: LN10 * dy * y,),
    doc="10 ** x.")

expm1 = elementwise(
    "expm1", "x", rule="Float", c="vm::expm1(a)", reference="expm1",
    grad=(lambda dy, y, x: dy * (y + 1),),
    doc="e ** x - 1, exact for small x.")


@function(reference="ldexp", samples=(sample((3, 4), lambda rng: rng.integers(-3, 9, (3, 4))),))
def ldexp(x, n):
    """x * 2**n for whole n (2**n must be representable)."""
    x = as_array(x)
    return x * exp2(cast(n, x.dtype))


log = elementwise(
    "log", "x", rule="Float", c="vm::log(a)", reference="log", domain=(0.2, 3),
    grad=(lambda dy, y, x: dy / x,),
    doc="The natural logarithm; -inf at 0, NaN below.")

log2 = elementwise(
    "log2", "x", rule="Float", c="vm::log2(a)", reference="log2", domain=(0.2, 3),
    grad=(lambda dy, y, x: dy / (LN2 * x),),
    doc="The logarithm to base 2; -inf at 0, NaN below.")

log10 = elementwise(
    "log10", "x", rule="Float", c="vm::log10(a)", reference="log10", domain=(0.2, 3),
    grad=(lambda dy, y, x: dy / (LN10 * x),),
    doc="The logarithm to base 10; -inf at 0, NaN below.")

log1p = elementwise(
    "log1p", "x", rule="Float", c="vm::log1p(a)", reference="log1p", domain=(-0.7, 2),
    grad=(lambda dy, y, x: dy / (1 + x),),
    doc="log(1 + x), exact for small x.")

logaddexp = elementwise(
    "logaddexp", "a, b", rule="Float", c="vm::logaddexp(a, b)", commutative=True, reference="logaddexp",
    grad=(lambda dy, y, a, b: dy * ops.sigm(a - b), lambda dy, y, a, b: dy * ops.sigm(b - a)),
    doc="log(exp(a) + exp(b)) without overflow.")

logaddexp2 = elementwise(
    "logaddexp2", "a, b", rule="Float", c="vm::logaddexp2(a, b)", commutative=True, reference="logaddexp2",
    grad=(lambda dy, y, a, b: dy * ops.sigm(LN2 * (a - b)), lambda dy, y, a, b: dy * ops.sigm(LN2 * (b - a))),
    doc="log2(2**a + 2**b) without overflow.")


# ---- trigonometric and hyperbolic functions

sin = elementwise(
    "sin", "x", rule="Float", c="vm::sin(a)", reference="sin",
    grad=(lambda dy, y, x: dy * cos(x),),
    doc="The sine of x in radians.")

cos = elementwise(
    "cos", "x", rule="Float", c="vm::cos(a)", reference="cos",
    grad=(lambda dy, y, x: -dy * sin(x),),
    doc="The cosine of x in radians.")

tan = elementwise(
    "tan", "x", rule="Float", c="vm::tan(a)", reference="tan", domain=(-1, 1),
    grad=(lambda dy, y, x: dy * (1 + y * y),),
    doc="The tangent of x in radians.")

arcsin = elementwise(
    "arcsin", "x", rule="Float", c="vm::asin(a)", aliases=("asin",), reference="arcsin", numpy=("asin",),
    domain=(-0.8, 0.8),
    grad=(lambda dy, y, x: dy / sqrt((1 - x) * (1 + x)),),
    doc="The angle in [-pi/2, pi/2] whose sine is x.")

arccos = elementwise(
    "arccos", "x", rule="Float", c="vm::acos(a)", aliases=("acos",), reference="arccos", numpy=("acos",),
    domain=(-0.8, 0.8),
    grad=(lambda dy, y, x: -dy / sqrt((1 - x) * (1 + x)),),
    doc="The angle in [0, pi] whose cosine is x.")

arctan = elementwise(
    "arctan", "x", rule="Float", c="vm::atan(a)", aliases=("atan",), reference="arctan", numpy=("atan",),
    grad=(lambda dy, y, x: dy / (1 + x * x),),
    doc="The angle in [-pi/2, pi/2] whose tangent is x.")


def _radius2(a, b):
    """a**2 + b**2, but 1 at the origin: what is divided by it is 0 there."""
    r = a * a + b * b
    return where(r == 0, 1, r)


arctan2 = elementwise(
    "arctan2", "a, b", rule="Float", c="vm::atan2(a, b)", aliases=("atan2",), reference="arctan2", numpy=("atan2",),
    domain=(0.3, 2),
    grad=(lambda dy, y, a, b: dy * b / _radius2(a, b), lambda dy, y, a, b: -dy * a / _radius2(a, b)),
    doc="The angle in [-pi, pi] of the point with abscissa b and ordinate a.")

hypot = elementwise(
    "hypot", "a, b", rule="Float", c="vm::hypot(a, b)", commutative=True, reference="hypot", domain=(0.3, 2),
    grad=(lambda dy, y, a, b: dy * a / where(y == 0, 1, y), lambda dy, y, a, b: dy * b / where(y == 0, 1, y)),
    doc="sqrt(a**2 + b**2) without overflow.")

sinh = elementwise(
    "sinh", "x", rule="Float", c="vm::sinh(a)", reference="sinh",
    grad=(lambda dy, y, x: dy * cosh(x),),
    doc="The hyperbolic sine of x.")

cosh = elementwise(
    "cosh", "x", rule="Float", c="vm::cosh(a)", reference="cosh",
    grad=(lambda dy, y, x: dy * sinh(x),),
    doc="The hyperbolic cosine of x.")

# Networks have a tanh for every number that they compute: its derivative is one operation, not three.
tanh_back = elementwise(
    "tanh_back", "a, b", c="a * (T(1) - b * b)", public=False, reference=lambda a, b: a * (1 - b * b),
    grad=(lambda dy, y, a, b: tanh_back(dy, b), lambda dy, y, a, b: -2 * dy * a * b),
    doc="a (1 - b**2): the gradient a of tanh, where it is b.")

tanh = elementwise(
    "tanh", "x", rule="Float", c="vm::tanh(a)", reference="tanh",
    grad=(lambda dy, y, x: tanh_back(dy, y),),
    doc="The hyperbolic tangent of x.")

arcsinh = elementwise(
    "arcsinh", "x", rule="Float", c="vm::asinh(a)", aliases=("asinh",), reference="arcsinh", numpy=("asinh",),
    grad=(lambda dy, y, x: dy / hypot(x, 1),),
    doc="The number whose hyperbolic sine is x.")

arccosh = elementwise(
    "arccosh", "x", rule="Float", c="vm::acosh(a)", aliases=("acosh",), reference="arccosh", numpy=("acosh",),
    domain=(1.3, 3),
    grad=(lambda dy, y, x: dy / sqrt((x - 1) * (x + 1)),),
    doc="The number >= 0 whose hyperbolic cosine is x; NaN below 1.")

arctanh = elementwise(
    "arctanh", "x", rule="Float", c="vm::atanh(a)", aliases=("atanh",), reference="arctanh", numpy=("atanh",),
    domain=(-0.7, 0.7),
    grad=(lambda dy, y, x: dy / ((1 - x) * (1 + x)),),
    doc="The number whose hyperbolic tangent is x.")

degrees = elementwise(
    "degrees", "x", rule="Float", c=f"a * T({180 / PI!r})", aliases=("rad2deg",), reference="degrees",
    numpy=("rad2deg",),
    grad=(lambda dy, y, x: dy * (180 / PI),),
    doc="x in radians as degrees.")

radians = elementwise(
    "radians", "x", rule="Float", c=f"a * T({PI / 180!r})", aliases=("deg2rad",), reference="radians",
    numpy=("deg2rad",),
    grad=(lambda dy, y, x: dy * (PI / 180),),
    doc="x in degrees as radians.")


def _dsinc(dy, y, x):
    """(cos(pi x) - sinc(x)) / x, by its series near 0: there the quotient loses digits, its derivatives all of them."""
    near = absolute(x) < 0.25
    u = where(near, x, 0) * PI
    series = 0.0
    for k in range(8, 0, -1):  # sinc' = pi * sum of (-1)**k 2k u**(2k-1) / (2k+1)!; the ninth term is below 1e-17
        series = (-1) ** k * 2 * k / math.factorial(2 * k + 1) + u * u * series
    far = where(near, 1, x)
    return dy * where(near, series * u * PI, (cos(PI * far) - y) / far)


sinc = elementwise(
    "sinc", "x", rule="Float", c="vm::sinc(a)", reference="sinc",
    grad=(_dsinc,),
    doc="sin(pi x) / (pi x), and 1 at 0.")


# ---- maxima and minima

def _share(dy, loses, ties):
    """The gradient of the input that is chosen unless it `loses`."""
    return where(loses, 0, where(ties, 0.5 * dy, dy))


maximum = elementwise(
    "maximum", "a, b", c="vm::max(a, b)", c_int="a > b ? a : b", c_bool="a || b", commutative=True, reference="maximum",
    grad=(lambda dy, y, a, b: _share(dy, a < b, a == b), lambda dy, y, a, b: _share(dy, b < a, a == b)),
    doc="The larger of a and b; NaN if either is. Where they are equal each gets half of the gradient.")

minimum = elementwise(
    "minimum", "a, b", c="vm::min(a, b)", c_int="a < b ? a : b", c_bool="a && b", commutative=True, reference="minimum",
    grad=(lambda dy, y, a, b: _share(dy, a > b, a == b), lambda dy, y, a, b: _share(dy, b > a, a == b)),
    doc="The smaller of a and b; NaN if either is. Where they are equal each gets half of the gradient.")

fmax = elementwise(
    "fmax", "a, b", c="vm::fmax(a, b)", c_int="a > b ? a : b", c_bool="a || b", commutative=True, reference="fmax",
    grad=(lambda dy, y, a, b: _share(dy, logical_or(a < b, isnan(a)), a == b),
          lambda dy, y, a, b: _share(dy, logical_or(b < a, isnan(b)), a == b)),
    doc="The larger of a and b; if one is NaN, the other.")

fmin = elementwise(
    "fmin", "a, b", c="vm::fmin(a, b)", c_int="a < b ? a : b", c_bool="a && b", commutative=True, reference="fmin",
    grad=(lambda dy, y, a, b: _share(dy, logical_or(a > b, isnan(a)), a == b),
          lambda dy, y, a, b: _share(dy, logical_or(b > a, isnan(b)), a == b)),
    doc="The smaller of a and b; if one is NaN, the other.")

clamp = elementwise(
    "clamp", "x, lo, hi", c="vm::min(vm::max(a, b), c)", c_int="a < b ? (b < c ? b : c) : (a < c ? a : c)",
    reference=lambda x, lo, hi: np.minimum(np.maximum(x, lo), hi),
    domain=[(-2, 2), (-1, -0.5), (0.5, 1)], ints=[(-9, 9), (0, 3), (4, 7)],
    grad=(lambda dy, y, x, lo, hi: where(logical_or(x < lo, x > hi), 0, dy),
          lambda dy, y, x, lo, hi: where(logical_and(x < lo, lo <= hi), dy, 0),
          lambda dy, y, x, lo, hi: where(logical_or(x > hi, lo > hi), dy, 0)),
    doc="x, but lo where it is below and hi where it is above; hi where lo > hi.")


@function(reference="clip", samples=(
    sample((3, 4), -1, 1), sample((3, 4), None, 1), sample((3, 4), min=-0.5), sample((3, 4), (4,), 3), sample((3,))))
def clip(x, min=None, max=None):
    """x, but `min` where it is below and `max` where it is above; None is no bound."""
    if min is None:
        return positive(x) if max is None else minimum(x, max)
    return maximum(x, min) if max is None else clamp(x, min, max)


@function(numpy=("nan_to_num",), reference=lambda x, nan=0.0, posinf=None, neginf=None: np.nan_to_num(
    x, nan=nan, posinf=posinf, neginf=neginf), samples=(sample((3, 4)), sample((3, 4), nan=1.0)))
def nan_to_num(x, nan=0.0, posinf=None, neginf=None):
    """x, but `nan` where it is NaN, and `posinf` and `neginf` where infinite (None: the largest numbers of its type)
    instead."""
    x = as_array(x)
    name = str(x.dtype)
    if not name.startswith("float"):
        return positive(x)
    largest = {"float16": 65504.0, "float32": (2 - 2.0**-23) * 2.0**127}.get(name, (2 - 2.0**-52) * 2.0**1023)
    y = where(x == math.inf, largest if posinf is None else posinf, x)
    return where(isnan(x), nan, where(x == -math.inf, -largest if neginf is None else neginf, y))


# ---- comparison and logic (bool results)

equal = elementwise("equal", "a, b", rule="Compare", c="a == b", commutative=True, reference="equal", doc="a == b.")
not_equal = elementwise("not_equal", "a, b", rule="Compare", c="a != b", commutative=True, reference="not_equal",
                        doc="a != b.")
less = elementwise("less", "a, b", rule="Compare", c="a < b", reference="less", doc="a < b.")
less_equal = elementwise("less_equal", "a, b", rule="Compare", c="a <= b", reference="less_equal", doc="a <= b.")
greater = elementwise("greater", "a, b", rule="Compare", c="a > b", reference="greater", doc="a > b.")
greater_equal = elementwise("greater_equal", "a, b", rule="Compare", c="a >= b", reference="greater_equal",
                            doc="a >= b.")

logical_and = elementwise("logical_and", "a, b", rule="Logical", c_bool="a && b", commutative=True,
                          reference="logical_and", doc="Whether both are not 0.")
logical_or = elementwise("logical_or", "a, b", rule="Logical", c_bool="a || b", commutative=True,
                         reference="logical_or", doc="Whether one at least is not 0.")
logical_xor = elementwise("logical_xor", "a, b", rule="Logical", c_bool="a != b", commutative=True,
                          reference="logical_xor", doc="Whether exactly one is not 0.")
logical_not = elementwise("logical_not", "x", rule="Logical", c_bool="!a", reference="logical_not",
                          doc="Whether x is 0.")

isnan = elementwise("isnan", "x", rule="FloatTest", c="vm::isnan(a)", reference="isnan", doc="Whether x is NaN.")
isinf = elementwise("isinf", "x", rule="FloatTest", c="vm::isinf(a)", reference="isinf",
                    doc="Whether x is infinite, of either sign.")
isfinite = elementwise("isfinite", "x", rule="FloatTest", c="vm::isfinite(a)", reference="isfinite",
                       doc="Whether x is neither infinite nor NaN.")
signbit = elementwise("signbit", "x", rule="FloatTest", c="vm::signbit(a)", reference="signbit",
                      doc="Whether the sign of x is minus, of zeros too.")


@function(reference="isposinf", samples=(sample((3, 4)),))
def isposinf(x):
    """Whether x is plus infinity."""
    return x == float("inf")


@function(reference="isneginf", samples=(sample((3, 4)),))
def isneginf(x):
    """Whether x is minus infinity."""
    return x == -float("inf")


@function(reference="isclose", samples=(sample((3, 4), (3, 4)), sample((3, 4), 0.5, atol=0.4)))
def isclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    """Whether |a - b| <= atol + rtol * |b|, or both are the same infinity (with equal_nan, or both are NaN)."""
    close = logical_or(a == b, logical_and(isfinite(b), absolute(a - b) <= atol + rtol * absolute(b)))
    return logical_or(close, logical_and(isnan(a), isnan(b))) if equal_nan else close


where = elementwise(
    "where", "condition, a, b", rule="Where", c="vm::select(a, b, c)", reference="where",
    grad=(None, lambda dy, y, condition, a, b: where(condition, dy, 0),
          lambda dy, y, condition, a, b: where(condition, 0, dy)),
    doc="a where the condition holds, b elsewhere; all three broadcast.")


# ---- bits and whole numbers

bitwise_and = elementwise("bitwise_and", "a, b", rule="IntBits", c_int="a & b", c_bool="a && b", commutative=True,
                          reference="bitwise_and", doc="a & b, bit by bit.")
bitwise_or = elementwise("bitwise_or", "a, b", rule="IntBits", c_int="a | b", c_bool="a || b", commutative=True,
                         reference="bitwise_or", doc="a | b, bit by bit.")
bitwise_xor = elementwise("bitwise_xor", "a, b", rule="IntBits", c_int="a ^ b", c_bool="a != b", commutative=True,
                          reference="bitwise_xor", doc="a ^ b, bit by bit.")
invert = elementwise("invert", "x", rule="IntBits", c_int="~a", c_bool="!a",
                     aliases=("bitwise_not", "bitwise_invert"), reference="invert",
                     numpy=("bitwise_not", "bitwise_invert"), doc="~x, all bits turned; of bools, not.")

# A shift by more than the width leaves nothing (but the sign), as in NumPy. Negative counts are huge ones.
left_shift = elementwise(
    "left_shift", "a, b", rule="IntBits", c_int="vm::shift_left(a, b)", ints=[(-99, 99), (0, 9)],
    aliases=("bitwise_left_shift",), reference="left_shift", numpy=("bitwise_left_shift",), doc="a << b.")
right_shift = elementwise(
    "right_shift", "a, b", rule="IntBits", c_int="vm::shift_right(a, b)", ints=[(-99, 99), (0, 9)],
    aliases=("bitwise_right_shift",), reference="right_shift", numpy=("bitwise_right_shift",),
    doc="a >> b; the sign is kept.")

_GCD = "[](T m, T n) {{ while (n) {{ T r = m % n; m = n; n = r; }} return m < T(0) ? T(-m) : m; }}({}, {})"
gcd = elementwise("gcd", "a, b", rule="IntBits", c_int=_GCD.format("a", "b"), commutative=True, reference="gcd",
                  doc="The greatest common divisor of integers.")
lcm = elementwise(
    "lcm", "a, b", rule="IntBits", commutative=True, reference="lcm", ints=(-5, 5),
    c_int="[](T x, T y, T g) { T m = g ? T(x / g * y) : T(0); return m < T(0) ? T(-m) : m; }"
          f"(a, b, {_GCD.format('a', 'b')})",
    doc="The least common multiple of integers.")

copysign = elementwise(
    "copysign", "a, b", rule="Float", c="vm::copysign(a, b)", reference="copysign",
    domain=([(-2, -0.1), (0.1, 2)],) * 2,
    grad=(lambda dy, y, a, b: dy * sign(a) * copysign(1, b), None),
    doc="a with the sign of b.")

heaviside = elementwise(
    "heaviside", "x, h", rule="Float", reference="heaviside", domain=([(-2, -0.1), (0.1, 2)], (-2, 2)),
    c="vm::select(a < T(0), T(0), vm::select(a > T(0), T(1), vm::select(a == T(0), b, a)))",
    grad=(None, lambda dy, y, x, h: where(x == 0, dy, 0)),
    doc="The step function: 0 where x is below 0, 1 above, h at 0.")

cast = elementwise(
    "cast", "x, dtype: dtype", public=False, rule="None",
    grad=(lambda dy, y, x, dtype: cast(dy, x.dtype),), reference=lambda x, dtype: np.asarray(x).astype(dtype),
    doc="x as another element type.")
