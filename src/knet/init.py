"""Weights to start from.

Dense weights are (in, out), used as x @ w; filters are (out, in, kh, kw). Fans count the connections of one unit: `in`
and `out` of a dense layer, times the elements of the filter for a convolution; a vector of n is n inputs of one output.
"""
import math

from .ops.define import ops
from .ops.random import normal, uniform
from .ops.create import default_float

__all__ = ["gaussian", "xavier", "xavier_uniform", "xavier_normal", "xavier_v08", "bilinear"]


def _shape(name, shape):
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(f"[{name}] {shape} is not a shape. Give extents: {name}(784, 10).")
    return shape


def _fans(name, shape):
    """Inputs and outputs of one unit, by the shape of its layer's weights."""
    if not shape:
        raise ValueError(f"[{name}] a scalar has no fan-in. Give a shape: {name}(784, 10).")
    if len(shape) == 1:
        return shape[0], 1
    if len(shape) == 2:
        return shape
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def gaussian(*shape, mean=0.0, std=0.01, dtype=None):
    """Normal numbers of this mean and standard deviation: gaussian(784, 10)."""
    return normal(mean, std, _shape("gaussian", shape), dtype)


def xavier_uniform(*shape, gain=1.0, dtype=None):
    """Uniform in +-gain sqrt(6 / (fan-in + fan-out)): Glorot and Bengio (2010), equation 16.

    >>> bool((abs(xavier(784, 10)) <= (6 / 794) ** 0.5).all())
    True
    """
    shape = _shape("xavier_uniform", shape)
    limit = gain * math.sqrt(6 / max(sum(_fans("xavier_uniform", shape)), 1))
    return uniform(-limit, limit, shape, dtype)


xavier = xavier_uniform


def xavier_normal(*shape, gain=1.0, dtype=None):
    """Normal with standard deviation gain sqrt(2 / (fan-in + fan-out)): the same variance as xavier_uniform."""
    shape = _shape("xavier_normal", shape)
    return normal(0.0, gain * math.sqrt(2 / max(sum(_fans("xavier_normal", shape)), 1)), shape, dtype)


def xavier_v08(*shape, dtype=None):
    """Knet's xavier up to version 1.3.1: uniform in +-sqrt(2 / (fan-in + fan-out)), a third of Glorot's variance, and
    for filters the fan-out is the number of output channels alone. For figures of that time."""
    shape = _shape("xavier_v08", shape)
    if len(shape) < 2:
        raise ValueError(f"[xavier_v08] needs at least two dimensions: {shape}. Use xavier for vectors.")
    limit = math.sqrt(2 / max(shape[0] + math.prod(shape[1:]), 1))
    return uniform(-limit, limit, shape, dtype)


def bilinear(factor, channels, dtype=None):
    """Filters (channels, channels, n, n) with which deconv4 enlarges images `factor` times by bilinear interpolation,
    each channel by itself; n = 2 factor - factor % 2."""
    n = 2 * factor - factor % 2
    centre = factor - 1 if n % 2 else factor - 0.5
    tent = ops.subtract(1.0, ops.divide(ops.absolute(ops.subtract(ops.arange(n, dtype="float64"), centre)), factor))
    each = ops.reshape(ops.eye(channels, dtype="float64"), (channels, channels, 1, 1))
    return ops.cast(ops.multiply(each, ops.outer(tent, tent)), dtype=default_float() if dtype is None else dtype)
