"""The functions of neural networks: elementwise operations as in elementwise.py."""
import math

from .define import elementwise, np, ops
from .elementwise import PI, _each, absolute, exp, expm1, logical_and, minimum, square, tanh, where

relu = elementwise(
    "relu", "x", c="vm::max(a, T(0))", c_int="a > T(0) ? a : T(0)", reference=lambda x: np.maximum(x, 0),
    domain=([(-2, -0.1), (0.1, 2)],),
    grad=(lambda dy, y, x: where(y > 0, dy, 0),),
    doc="max(x, 0); the derivative at 0 is 0.")

relu6 = elementwise(
    "relu6", "x", c="vm::min(vm::max(a, T(0)), T(6))", c_int="a < T(0) ? T(0) : a < T(6) ? a : T(6)",
    reference=lambda x: np.clip(x, 0, 6), domain=([(-2, -0.1), (0.1, 5.9), (6.1, 8)],),
    grad=(lambda dy, y, x: where(logical_and(y > 0, y < 6), dy, 0),),
    doc="min(max(x, 0), 6).")

leaky_relu = elementwise(
    "leaky_relu", "x, slope=0.01", rule="Float", c="vm::select(a > T(0), a, a * b)",
    reference=lambda x, slope=0.01: np.where(np.asarray(x) > 0, x, np.multiply(x, slope)),
    domain=([(-2, -0.1), (0.1, 2)], (0.1, 0.5)),
    grad=(lambda dy, y, x, slope: where(x > 0, dy, dy * slope), lambda dy, y, x, slope: where(x > 0, 0, dy * x)),
    doc="x where it is above 0, slope * x below.")

sigm_back = elementwise(  # one operation, as tanh_back
    "sigm_back", "a, b", c="a * b * (T(1) - b)", public=False, reference=lambda a, b: a * b * (1 - b),
    grad=(lambda dy, y, a, b: sigm_back(dy, b), lambda dy, y, a, b: dy * a * (1 - 2 * b)),
    doc="a b (1 - b): the gradient a of sigm, where it is b.")

sigm = elementwise(
    "sigm", "x", rule="Float", c="vm::sigm(a)", aliases=("sigmoid",), reference=lambda x: np.exp(-np.logaddexp(0, -x)),
    grad=(lambda dy, y, x: sigm_back(dy, y),),
    doc="The logistic function, 1 / (1 + exp(-x)).")

log_sigmoid = elementwise(
    "log_sigmoid", "x", rule="Float", c="-vm::softplus(-a)",
    reference=lambda x: -np.logaddexp(0, -x),
    grad=(lambda dy, y, x: dy * sigm(-x),),
    doc="log(sigm(x)) without underflow.")

softplus = elementwise(
    "softplus", "x", rule="Float", c="vm::softplus(a)", reference=lambda x: np.logaddexp(0, x),
    grad=(lambda dy, y, x: dy * sigm(x),),
    doc="The smooth relu, log(1 + exp(x)).")

softsign = elementwise(
    "softsign", "x", rule="Float", c="a / (T(1) + vm::abs(a))", reference=lambda x: x / (1 + np.abs(x)),
    domain=([(-2, -0.1), (0.1, 2)],),
    grad=(lambda dy, y, x: dy / square(1 + absolute(x)),),
    doc="x / (1 + |x|).")

elu = elementwise(
    "elu", "x, alpha=1.0", rule="Float", c="vm::select(a >= T(0), a, T(double(b) * vm::expm1_for<T>(double(a))))",
    reference=lambda x, alpha=1.0: np.where(np.asarray(x) >= 0, x, alpha * np.expm1(x)),
    domain=([(-2, -0.1), (0.1, 2)], (0.5, 1.5)),
    grad=(lambda dy, y, x, alpha: where(x >= 0, dy, dy * (y + alpha)),
          lambda dy, y, x, alpha: dy * expm1(minimum(x, 0))),
    doc="x from 0 on, alpha * (exp(x) - 1) below. Clevert et al., arXiv:1511.07289.")

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # fixed point of mean 0 and variance 1
SELU_BOTH = 1.7580993408473769  # their product, rounded once
selu = elementwise(
    "selu", "x", rule="Float", reference=lambda x: SELU_SCALE * np.where(x >= 0, x, SELU_ALPHA * np.expm1(x)),
    c=f"T(vm::select(a >= T(0), {SELU_SCALE} * double(a), {SELU_BOTH} * vm::expm1_for<T>(double(a))))",
    domain=([(-2, -0.1), (0.1, 2)],),
    grad=(lambda dy, y, x: dy * where(x >= 0, SELU_SCALE, y + SELU_BOTH),),
    doc="The elu that keeps mean 0 and variance 1. Klambauer et al., arXiv:1706.02515.")

celu = elementwise(
    "celu", "x, alpha=1.0", rule="Float",
    c="vm::select(a >= T(0), a, T(double(b) * vm::expm1_for<T>(double(a) / double(b))))",
    reference=lambda x, alpha=1.0: np.where(np.asarray(x) >= 0, x, alpha * np.expm1(x / alpha)),
    domain=([(-2, -0.1), (0.1, 2)], (0.5, 1.5)),
    grad=(lambda dy, y, x, alpha: where(x >= 0, dy, dy * (y / alpha + 1)),
          lambda dy, y, x, alpha: where(x >= 0, 0, dy * (y - x - x * (y / alpha)) / alpha)),
    doc="The elu with a continuous derivative, alpha * (exp(x / alpha) - 1) below 0. Barron, arXiv:1704.07483.")

gelu = elementwise(
    "gelu", "x", rule="Float", c="vm::gelu(a)", reference=lambda x: x * 0.5 * _each(math.erfc)(-x / math.sqrt(2)),
    grad=(lambda dy, y, x: dy * (0.5 * ops.erfc(-x * (1 / math.sqrt(2)))
                                 + x * exp(-0.5 * x * x) * (1 / math.sqrt(2 * PI))),),
    doc="x times the normal distribution function at x, x (1 + erf(x / sqrt 2)) / 2. Hendrycks, arXiv:1606.08415.")

swish = elementwise(
    "swish", "x", rule="Float", c="vm::swish(a)", aliases=("silu",), reference=lambda x: x / (1 + np.exp(-x)),
    grad=(lambda dy, y, x: dy * (sigm(x) * (1 + x - y)),),
    doc="x * sigm(x). Ramachandran et al., arXiv:1710.05941.")

mish = elementwise(
    "mish", "x", rule="Float", c="vm::mish(a)", reference=lambda x: x * np.tanh(np.logaddexp(0, x)),
    grad=(lambda dy, y, x: dy * (tanh(softplus(x)) + x * sigm(x) * (1 - square(tanh(softplus(x))))),),
    doc="x * tanh(softplus(x)). Misra, arXiv:1908.08681.")

hardsigmoid = elementwise(
    "hardsigmoid", "x", rule="Float", c="vm::min(vm::max((a + T(3)) / T(6), T(0)), T(1))",
    reference=lambda x: np.clip((x + 3) / 6, 0, 1), domain=([(-5, -3.1), (-2.9, 2.9), (3.1, 5)],),
    grad=(lambda dy, y, x: where(logical_and(y > 0, y < 1), dy * (1 / 6), 0),),
    doc="(x + 3) / 6 between -3 and 3, 0 below, 1 above.")

hardswish = elementwise(
    "hardswish", "x", rule="Float", c="a * vm::min(vm::max((a + T(3)) / T(6), T(0)), T(1))",
    reference=lambda x: x * np.clip((x + 3) / 6, 0, 1), domain=([(-5, -3.1), (-2.9, 2.9), (3.1, 5)],),
    grad=(lambda dy, y, x: dy * where(x <= -3, 0, where(x >= 3, 1, x * (1 / 3) + 0.5)),),
    doc="x * hardsigmoid(x).")

hardtanh = elementwise(
    "hardtanh", "x", c="vm::min(vm::max(a, T(-1)), T(1))", rule="Float", reference=lambda x: np.clip(x, -1, 1),
    domain=([(-2, -1.1), (-0.9, 0.9), (1.1, 2)],),
    grad=(lambda dy, y, x: where(logical_and(y > -1, y < 1), dy, 0),),
    doc="x, but -1 below -1 and 1 above 1.")
