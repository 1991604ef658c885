"""Special functions, the error function and the gamma function above all: elementwise operations as in
elementwise.py."""
import math

from .define import elementwise, np
from .elementwise import PI, _each, exp

erf = elementwise(
    "erf", "x", rule="Float", c="vm::erf(a)", reference=_each(math.erf),
    grad=(lambda dy, y, x: dy * exp(-x * x) * (2 / math.sqrt(PI)),),
    doc="The error function, 2 / sqrt(pi) times the integral of exp(-t**2) from 0 to x.")

erfc = elementwise(
    "erfc", "x", rule="Float", c="vm::erfc(a)", reference=_each(math.erfc),
    grad=(lambda dy, y, x: dy * exp(-x * x) * (-2 / math.sqrt(PI)),),
    doc="1 - erf(x), exact for large x.")


def _mp(name):
    """A reference from mpmath."""
    def reference(*xs):
        import mpmath
        return np.vectorize(lambda *v: float(getattr(mpmath, name)(*v)), otypes=[float])(*xs)
    return reference


erfinv = elementwise(
    "erfinv", "x", rule="Float", c="vm::erfinv(a)", reference=_mp("erfinv"), domain=(-0.9, 0.9), ints=(0, 0),
    grad=(lambda dy, y, x: dy * exp(y * y) * (math.sqrt(PI) / 2),),
    doc="The number whose error function is x.")

lgamma = elementwise(
    "lgamma", "x", rule="Float", c="vm::lgamma(a)", aliases=("gammaln", "loggamma"), reference=_each(math.lgamma),
    domain=(0.3, 4), ints=(1, 9),
    grad=(lambda dy, y, x: dy * digamma(x),),
    doc="The logarithm of |gamma(x)|.")

# gamma is negative exactly where x < 0 and floor(x) is odd.
gamma = elementwise(
    "gamma", "x", rule="Float", c="vm::gamma(a)", reference=_each(math.gamma), domain=(0.3, 4), ints=(1, 9),
    grad=(lambda dy, y, x: dy * y * digamma(x),),
    doc="The gamma function, (x - 1)! for whole numbers.")

digamma = elementwise(
    "digamma", "x", rule="Float", c="vm::digamma(a)", reference=_mp("digamma"), domain=(0.5, 4), ints=(1, 9),
    grad=(lambda dy, y, x: dy * trigamma(x),),
    doc="The derivative of lgamma.")

trigamma = elementwise(
    "trigamma", "x", rule="Float", c="vm::polygamma(T(1), a)", domain=(0.5, 4), ints=(1, 9),
    reference=lambda x: polygamma.reference(1, x),
    grad=(lambda dy, y, x: dy * polygamma(2, x),),
    doc="The second derivative of lgamma.")

polygamma = elementwise(
    "polygamma", "n, x", rule="Float", c="vm::polygamma(vm::rint(a), b)", ints=(1, 4),
    domain=([(0.7, 1.3), (1.7, 2.3)], (0.5, 4)), reference=lambda n, x: _mp("polygamma")(np.rint(n), x),
    grad=(None, lambda dy, y, n, x: dy * polygamma(n + 1, x)),
    doc="The derivative of order n + 1 of lgamma; n is rounded to a whole number and must be at least 1.")
