"""Arrays made from nothing: zeros and ones, ranges, grids."""
import math

from .define import engine, function, np, ops, primitive, sample
from .shape import as_array, as_shape, broadcast_arrays, broadcast_to, reshape

iota = primitive(
    "iota", "start, step, n: int, dtype: dtype", "Create", public=False,
    reference=lambda start, step, n, dtype: (np.asarray(start) + np.asarray(step) * np.arange(n)).astype(dtype),
    samples=[sample(2, 3, n=5, dtype="int64"), sample(0, 1, n=0, dtype="int32")],
    doc="start, start + step, ...: n elements.")


def default_float():
    """The type of floats made from nothing or from Python numbers: knet.config.dtype."""
    return engine.default_dtype()


def _zeros_of(shape, dtype):
    return broadcast_to(ops.cast(0, dtype=dtype), shape)


@function(numpy=("full",))
def full(shape, fill_value, dtype=None):
    """An array with one value (or a broadcast one) everywhere; its type is that of the value unless given."""
    if dtype is None:
        if isinstance(fill_value, bool):
            dtype = "bool"
        elif isinstance(fill_value, int):
            dtype = "int64"
        else:
            dtype = fill_value.dtype if hasattr(fill_value, "dtype") else default_float()
    return broadcast_to(ops.cast(fill_value, dtype=dtype), as_shape(shape))


def _not_an_extent(name, shape, dtype):
    if isinstance(dtype, int):
        raise TypeError(f"[{name}] the shape is one argument. Write {name}(({shape}, {dtype})).")


@function(numpy=("zeros",))
def zeros(shape, dtype=None):
    """An array of zeros, float32 unless another type is given."""
    _not_an_extent("zeros", shape, dtype)
    return _zeros_of(as_shape(shape), default_float() if dtype is None else dtype)


@function(numpy=("ones",))
def ones(shape, dtype=None):
    """An array of ones, float32 unless another type is given."""
    _not_an_extent("ones", shape, dtype)
    return full(shape, 1, default_float() if dtype is None else dtype)


@function(numpy=("full_like",))
def full_like(x, fill_value, dtype=None, shape=None):
    """Like full, with the shape and type of x."""
    x = as_array(x)
    return full(x.shape if shape is None else shape, fill_value, x.dtype if dtype is None else dtype)


@function(reference="zeros_like", samples=[sample((2, 3))])
def zeros_like(x, dtype=None, shape=None):
    """Zeros with the shape and type of x."""
    return full_like(x, 0, dtype, shape)


@function(reference="ones_like", samples=[sample((2, 3))])
def ones_like(x, dtype=None, shape=None):
    """Ones with the shape and type of x."""
    return full_like(x, 1, dtype, shape)


@function(numpy=("empty",))
def empty(shape, dtype=None):
    """The same as zeros: no array here has undefined elements."""
    return zeros(shape, dtype)


@function(numpy=("empty_like",))
def empty_like(x, dtype=None, shape=None):
    """The same as zeros_like."""
    return zeros_like(x, dtype, shape)


@function(numpy=("eye",))
def eye(n, m=None, k=0, dtype=None):
    """Ones on the k-th diagonal, zeros elsewhere."""
    m = n if m is None else m
    rows = reshape(arange(k, n + k), (n, 1))
    return ops.cast(ops.equal(rows, arange(m)), dtype=default_float() if dtype is None else dtype)


@function(numpy=("identity",))
def identity(n, dtype=None):
    """The identity matrix (n, n)."""
    return eye(n, dtype=dtype)


@function(numpy=("arange",))
def arange(start, stop=None, step=1, dtype=None):
    """start, start + step, ... below stop; integers give int64, floats float32, unless another type is given."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ValueError("[arange] a step of 0 goes nowhere. Use another step, or linspace.")
    n = max(math.ceil((stop - start) / step), 0)
    if dtype is None:
        dtype = default_float() if any(isinstance(v, float) for v in (start, stop, step)) else "int64"
    return iota(start, step, n=n, dtype=dtype)


@function(numpy=("linspace",))
def linspace(start, stop, num=50, endpoint=True, dtype=None):
    """`num` numbers evenly spaced from start to stop, which is the last of them if `endpoint`."""
    if num < 0:
        raise ValueError(f"[linspace] a negative number of points: {num}. Use 0 or more.")
    gaps = max(num - 1 if endpoint else num, 1)
    distance = ops.subtract(stop, start)
    if dtype is None:
        made_of_arrays = hasattr(start, "dtype") or hasattr(stop, "dtype")
        dtype = distance.dtype if made_of_arrays and "float" in str(distance.dtype) else default_float()
    i = reshape(arange(num, dtype="float64"), (num,) + (1,) * len(distance.shape))
    y = ops.add(start, ops.multiply(i / gaps, distance))
    if endpoint and num > 1:
        y = ops.where(ops.equal(i, gaps), stop, y)  # exactly, whatever the rounding
    return ops.cast(y, dtype=dtype)


@function(numpy=("meshgrid",))
def meshgrid(*xs, indexing="xy", sparse=False):
    """Coordinate arrays from vectors, as a tuple: the k-th varies along axis k ("ij"), or with the first two axes
    interchanged ("xy").

    >>> a, b = knet.meshgrid(knet.arange(3), knet.arange(2), indexing="ij")
    >>> a.tolist(), b.tolist()
    ([[0, 0], [1, 1], [2, 2]], [[0, 1], [0, 1], [0, 1]])
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"[meshgrid] no indexing {indexing!r}. Use 'xy' or 'ij'.")
    order = list(range(len(xs)))
    if indexing == "xy" and len(xs) > 1:
        order[:2] = 1, 0
    grids = [reshape(x, tuple(-1 if a == k else 1 for a in range(len(xs)))) for k, x in zip(order, xs)]
    return tuple(grids) if sparse else broadcast_arrays(*grids)
