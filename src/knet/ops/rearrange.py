"""Elements repeated and rearranged: padding, turning, rolling, tiling; diagonals and triangles of matrices."""
import operator

from .create import _zeros_of, arange, default_float, full
from .define import function, ops, sample
from .shape import (as_array, as_shape, broadcast_to, concatenate, flip, norm_axes, norm_axis, part, ravel, reshape,
                    slice_update, swapaxes, transpose)

# ---- repeating and rearranging

def _pairs(width, ndim):
    """NumPy's pad_width as ((before, after), ...)."""
    if not isinstance(width, (tuple, list)):
        return ((width, width),) * ndim
    width = list(width)
    if all(not isinstance(w, (tuple, list)) for w in width):
        if len(width) not in (1, 2):
            raise ValueError(f"[pad] pad_width {width} is not understood. Give (before, after) for each axis.")
        return ((width[0], width[-1]),) * ndim
    if len(width) == 1:
        width = width * ndim
    if len(width) != ndim or any(len(w) not in (1, 2) for w in width):
        raise ValueError(
            f"[pad] {len(width)} pairs in pad_width for {ndim} dimensions. Give (before, after) for each axis."
        )
    return tuple((w[0], w[-1]) for w in width)


def _mirrored(i, n, mode):
    """For each index from outside 0..n-1, the index of the element that stands there."""
    if mode == "edge":
        return ops.minimum(ops.maximum(i, 0), n - 1)
    if mode == "wrap":
        return i % n
    if mode == "reflect":
        return (n - 1) - ops.abs(i % max(2 * n - 2, 1) - (n - 1)) if n > 1 else i * 0
    m = i % (2 * n)
    return ops.minimum(m, 2 * n - 1 - m)


@function(reference="pad", samples=[
    sample((2, 3), pad_width=((1, 0), (2, 1)), constant_values=1.5), sample((3, 4), pad_width=2, mode="reflect"),
    sample((3, 4), pad_width=(1, 2), mode="edge"), sample((3,), pad_width=2, mode="symmetric"),
    sample((3,), pad_width=2, mode="wrap")])
def pad(x, pad_width, mode="constant", constant_values=0):
    """x with elements added on both sides of its axes.

    pad_width: a number, (before, after), or one such pair an axis; mode: constant, edge, reflect, symmetric or wrap.

    >>> knet.pad(knet.array([1, 2]), (1, 2), constant_values=9).tolist()
    [9, 1, 2, 9, 9]
    """
    x = as_array(x)
    pairs = _pairs(pad_width, len(x.shape))
    if any(p < 0 for pair in pairs for p in pair):
        raise ValueError(f"[pad] negative pad_width {pairs}. Use slices to remove elements.")
    if mode == "constant":
        if not any(map(any, pairs)):
            return ops.alias(x)
        fill = full(tuple(n + lo + hi for n, (lo, hi) in zip(x.shape, pairs)), constant_values, x.dtype)
        axes = tuple(a for a, pair in enumerate(pairs) if any(pair))
        return slice_update(fill, x, *(pairs[a][0] for a in axes), axes=axes, steps=(1,) * len(axes))
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        raise ValueError(f"[pad] no mode {mode!r}. Use constant, edge, reflect, symmetric or wrap.")
    for axis, (lo, hi) in enumerate(pairs):
        if lo or hi:
            n = x.shape[axis]
            if n == 0:
                raise ValueError(f"[pad] nothing to repeat along axis {axis} of {tuple(x.shape)}. Use mode='constant'.")
            x = ops.gather(x, _mirrored(arange(-lo, n + hi), n, mode), axes=(axis,), at=axis)
    return ops.alias(x)


@function(reference="fliplr", samples=[sample((2, 3))])
def fliplr(x):
    """Columns in reverse order (axis 1)."""
    return flip(x, 1)


@function(reference="flipud", samples=[sample((2, 3))])
def flipud(x):
    """Rows in reverse order (axis 0)."""
    return flip(x, 0)


@function(reference="rot90", samples=[sample((2, 3)), sample((2, 3), k=2), sample((2, 3, 4), k=-1, axes=(1, 2))])
def rot90(x, k=1, axes=(0, 1)):
    """x turned by k quarter turns, from the first of the axes towards the second."""
    a, b = norm_axes(axes, len(as_array(x).shape), "rot90")
    k %= 4
    if k == 2:
        return flip(x, (a, b))
    return ops.alias(x) if k == 0 else flip(swapaxes(x, a, b), a) if k == 1 else swapaxes(flip(x, a), a, b)


@function(
    reference="roll",
    samples=[sample((5,), shift=2), sample((3, 4), shift=-1), sample((3, 4), shift=(1, 5), axis=(0, 1))],
)
def roll(x, shift, axis=None):
    """x moved along axes, what leaves at one end enters at the other; without axis, of the flattened array."""
    x = as_array(x)
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), x.shape)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    shifts = shift if isinstance(shift, (tuple, list)) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        raise ValueError(f"[roll] {len(shifts)} shifts for {len(axes)} axes. Give one each.")
    for a, s in zip(axes, shifts):
        a = norm_axis(a, len(x.shape), "roll")
        n = x.shape[a]
        s = operator.index(s) % n if n else 0
        if s:
            x = concatenate(part(x, a, n - s, s), part(x, a, 0, n - s), axis=a)
    return ops.alias(x)  # its own handle, even where nothing moved: y = roll(x, 0); y += 1


@function(
    reference="tile", samples=[sample((2, 3), reps=2), sample((2, 3), reps=(2, 1, 2)), sample((2, 3), reps=(0, 1))]
)
def tile(x, reps):
    """x repeated as a whole, `reps` times along each axis."""
    x = as_array(x)
    reps = as_shape(reps)
    shape = (1,) * (len(reps) - len(x.shape)) + tuple(x.shape)
    reps = (1,) * (len(shape) - len(reps)) + reps
    between = tuple(k for n in shape for k in (1, n))
    repeated = tuple(k for r, n in zip(reps, shape) for k in (r, n))
    return reshape(broadcast_to(reshape(x, between), repeated), tuple(r * n for r, n in zip(reps, shape)))


@function(reference="repeat", samples=[sample((2, 3), repeats=2), sample((2, 3), repeats=3, axis=0),
                                       sample((2, 3), repeats=(1, 0, 2), axis=1)])
def repeat(x, repeats, axis=None):
    """Each element along an axis repeated: a number of times, or one number for each element."""
    x = as_array(x)
    if axis is None:
        x, axis = ravel(x), 0
    shape = tuple(x.shape)
    axis = norm_axis(axis, len(shape), "repeat")
    n = shape[axis]
    if hasattr(repeats, "tolist"):
        repeats = repeats.tolist()
    if isinstance(repeats, (tuple, list)):
        if len(repeats) == 1:
            repeats = repeats[0]
        elif len(repeats) != n:
            raise ValueError(
                f"[repeat] {len(repeats)} numbers for {n} elements along axis {axis} of {shape}. Give one each."
            )
        else:
            repeats = [operator.index(k) for k in repeats]
            if any(k < 0 for k in repeats):
                raise ValueError(f"[repeat] negative numbers: {repeats}. Use 0 to leave an element out.")
            if sum(repeats) > 1 << 20:  # a list of indices would take longer than the pieces
                pieces = [repeat(part(x, axis, i, 1), k, axis) for i, k in enumerate(repeats) if k]
                return concatenate(*pieces, axis=axis)
            return ops.gather(x, [i for i, k in enumerate(repeats) for _ in range(k)], axes=(axis,), at=axis)
    before, after = shape[:axis], shape[axis + 1:]
    y = broadcast_to(reshape(x, (*before, n, 1, *after)), (*before, n, repeats, *after))
    return reshape(y, (*before, n * repeats, *after))


# ---- diagonals and triangles

def _matrix(name, x):
    x = as_array(x)
    if len(x.shape) < 2:
        raise ValueError(f"[{name}] needs a matrix or a stack of them: {tuple(x.shape)}. Use reshape.")
    return x


def _below(rows, columns, k):
    """Where column <= row + k."""
    return ops.greater_equal(reshape(arange(k, rows + k), (rows, 1)), arange(columns))


@function(reference="tril", samples=[sample((3, 4)), sample((2, 3, 3), k=-1), sample((3, 4), k=1)])
def tril(x, k=0):
    """x with zeros above its k-th diagonal."""
    x = _matrix("tril", x)
    return ops.where(_below(x.shape[-2], x.shape[-1], k), x, ops.cast(0, dtype=x.dtype))


@function(reference="triu", samples=[sample((3, 4)), sample((2, 3, 3), k=-1), sample((3, 4), k=1)])
def triu(x, k=0):
    """x with zeros below its k-th diagonal."""
    x = _matrix("triu", x)
    return ops.where(_below(x.shape[-2], x.shape[-1], k - 1), ops.cast(0, dtype=x.dtype), x)


@function(numpy=("tri",))
def tri(n, m=None, k=0, dtype=None):
    """Ones on and below the k-th diagonal, zeros above."""
    return ops.cast(_below(n, n if m is None else m, k), dtype=default_float() if dtype is None else dtype)


@function(reference="diagonal", samples=[sample((3, 4)), sample((3, 4), offset=2), sample((4, 3), offset=-1),
                                         sample((3, 2, 4), axis1=-1, axis2=0)])
def diagonal(x, offset=0, axis1=0, axis2=1):
    """Elements [i, i + offset] of two axes, along a new last axis."""
    x = _matrix("diagonal", x)
    a, b = norm_axes((axis1, axis2), len(x.shape), "diagonal")
    axes = tuple(i for i in range(len(x.shape)) if i not in (a, b)) + (a, b)
    if axes != tuple(range(len(axes))):
        x = transpose(x, axes)
    *rest, n, m = x.shape
    count = max(min(n, m - offset) if offset >= 0 else min(n + offset, m), 0)
    start = offset if offset >= 0 else -offset * m
    return part(reshape(x, (*rest, n * m)), len(rest), start if count else 0, count, m + 1)


@function(reference="diag", samples=[sample((3,)), sample((3,), k=-1), sample((3, 4), k=1)])
def diag(x, k=0):
    """The k-th diagonal of a matrix, or a matrix with this diagonal and zeros elsewhere."""
    x = as_array(x)
    if len(x.shape) == 2:
        return diagonal(x, k)
    if len(x.shape) != 1:
        raise ValueError(f"[diag] needs a vector or a matrix: {tuple(x.shape)}. Use diagonal for stacks.")
    n = x.shape[0] + abs(k)
    flat = slice_update(_zeros_of((n * n,), x.dtype), x, k if k >= 0 else -k * n, axes=(0,), steps=(n + 1,))
    return reshape(flat, (n, n))


@function(reference="trace", samples=[sample((3, 4)), sample((3, 3), offset=1)])
def trace(x, offset=0, axis1=0, axis2=1):
    """The sum along a diagonal."""
    return ops.sum(diagonal(x, offset, axis1, axis2), (len(as_array(x).shape) - 2,))
