"""Arrays made, cut, joined and rearranged.

The primitives move elements; everything else here is made of them. Starts of slices are values, so a slice at another
offset makes no new plan. The derivative of each primitive is written with primitives, so all orders exist.
"""
import math
import operator

from .define import engine, face, function, np, ops, primitive, sample

# ---- arguments

def default_float():
    """The type of floats made from nothing or from Python numbers: knet.config.dtype."""
    return engine.default_dtype()


def as_array(x):
    """`x` as an array of ours: NumPy's, numbers and lists are recorded."""
    return x if hasattr(x, "shape") and type(x).__module__ != "numpy" else ops.alias(x)


def norm_axis(axis, ndim, name):
    axis = operator.index(axis)
    if not -ndim <= axis < ndim:
        raise IndexError(f"[{name}] axis {axis} is out of range for an array of {ndim} dimensions. "
                         f"Use {-ndim} to {ndim - 1}." if ndim else f"[{name}] a scalar has no axes: axis {axis}.")
    return axis + ndim if axis < 0 else axis


def norm_axes(axes, ndim, name):
    axes = (axes,) if not isinstance(axes, (tuple, list)) else axes
    normal = tuple(norm_axis(a, ndim, name) for a in axes)
    if len(set(normal)) != len(normal):
        raise ValueError(f"[{name}] an axis is named twice: {tuple(axes)}. Name each axis once.")
    return normal


def as_shape(shape):
    try:
        return tuple(map(operator.index, shape)) if isinstance(shape, (tuple, list)) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"[shape] {shape!r} is not a shape. Give extents: (2, 3).") from None


# ---- primitives

def _zeros(x):
    """Zeros like x; what is added into parts of them, the engine adds in place."""
    return broadcast_to(ops.cast(0.0, dtype=x.dtype), x.shape)


def _index(x, starts, axes, lengths, steps):
    """NumPy's index of a region, for references."""
    index = [slice(None)] * x.ndim
    for start, axis, n, step in zip(starts, axes, lengths, steps, strict=True):
        start, stop = int(start), int(start) + n * step
        index[axis] = slice(start, None if stop < 0 else stop, step) if n else slice(0, 0)
    return tuple(index)


def _written(x, v, starts, axes, steps, add):
    y = np.array(x)
    index = _index(y, starts, axes, [v.shape[a] for a in axes], steps)
    y[index] = y[index] + v if add else v
    return y


def _summed_to(dy, shape):
    """The adjoint of broadcasting `shape` to the shape of dy."""
    new = len(dy.shape) - len(shape)
    axes = tuple(range(new)) + tuple(new + i for i, n in enumerate(shape) if n == 1 and dy.shape[new + i] != 1)
    return reshape(ops.sum(dy, axes), shape) if axes else dy


def _concatenate_grad(dy, y, *xs, axis):
    start, parts = 0, []
    for x in xs:
        parts.append(part(dy, axis, start, x.shape[axis]))
        start += x.shape[axis]
    return parts


reshape = primitive(
    "reshape",
    "x, shape: shape",
    "Movement",
    grad=(lambda dy, y, x, shape: reshape(dy, x.shape),),
    reference="reshape",
    samples=[sample((2, 6), shape=(3, -1)), sample((), shape=(1, 1)), sample((0, 4), shape=(2, 0))],
    doc="The same elements in another shape; one dimension may be -1.",
)

transpose = primitive(
    "transpose", "x, axes: ints", "Movement", aliases=("permute_dims", "permute"),
    grad=(lambda dy, y, x, axes: transpose(dy, tuple(sorted(range(len(axes)), key=axes.__getitem__))),),
    reference="transpose", numpy=("permute_dims",), samples=[sample((2, 3, 4), axes=(2, 0, 1)), sample((), axes=())],
    doc="Dimensions in another order; without axes, reversed.")

broadcast_to = primitive(
    "broadcast_to",
    "x, shape: shape",
    "Movement",
    grad=(lambda dy, y, x, shape: _summed_to(dy, x.shape),),
    reference="broadcast_to",
    samples=[sample((3, 1), shape=(2, 3, 4)), sample((), shape=(2,)), sample((1,), shape=(0,))],
    doc="x repeated along new dimensions and those of length 1.",
)

slice_ = primitive(
    "slice",
    "x, *starts, axes: ints, lengths: ints, steps: ints",
    "Movement",
    public=False,
    grad=lambda dy, y, x, *starts, axes, lengths, steps: [slice_add(_zeros(x), dy, *starts, axes=axes, steps=steps)]
    + [None] * len(starts),
    reference=lambda x, *starts, axes, lengths, steps: np.array(x[_index(x, starts, axes, lengths, steps)]),
    samples=[
        sample((5, 6), 1, 4, axes=(0, 1), lengths=(2, 3), steps=(2, -2)),
        sample((4, 3), 2, axes=(0,), lengths=(0,), steps=(1,)),
        sample((4,), 3, axes=(0,), lengths=(4,), steps=(-1,)),
    ],
    doc="A region of x: along each of `axes`, `lengths` elements from the start value on, `steps` apart.",
)

slice_update = primitive(
    "slice_update",
    "x, v, *starts, axes: ints, steps: ints",
    "Movement",
    public=False,
    grad=lambda dy, y, x, v, *starts, axes, steps: [
        slice_update(dy, _zeros(v), *starts, axes=axes, steps=steps),
        slice_(dy, *starts, axes=axes, lengths=tuple(v.shape[a] for a in axes), steps=steps),
    ]
    + [None] * len(starts),
    reference=lambda x, v, *starts, axes, steps: _written(x, v, starts, axes, steps, False),
    samples=[
        sample((5, 6), (2, 3), 1, 4, axes=(0, 1), steps=(2, -2)),
        sample((4, 3), (0, 3), 2, axes=(0,), steps=(1,)),
    ],
    doc="x with a region replaced by v.",
)

slice_add = primitive(
    "slice_add",
    "x, v, *starts, axes: ints, steps: ints",
    "Movement",
    public=False,
    grad=lambda dy, y, x, v, *starts, axes, steps: [
        dy,
        slice_(dy, *starts, axes=axes, lengths=tuple(v.shape[a] for a in axes), steps=steps),
    ]
    + [None] * len(starts),
    reference=lambda x, v, *starts, axes, steps: _written(x, v, starts, axes, steps, True),
    samples=[
        sample((5, 6), (2, 3), 1, 4, axes=(0, 1), steps=(2, -2)),
        sample((4, 3), (0, 3), 2, axes=(0,), steps=(1,)),
    ],
    doc="x with v added to a region.",
)

flip = primitive(
    "flip", "x, axis: axes = None", "Movement",
    grad=(lambda dy, y, x, axis: flip(dy, axis),),
    reference="flip", samples=[sample((3, 4), axis=(1,)), sample((3, 4), axis=(0, 1))],
    doc="x backwards along the given axes, or all.")

concatenate = primitive(
    "concatenate", "*xs, axis: axis = 0", "Movement", aliases=("concat",),
    grad=_concatenate_grad,
    reference=lambda *xs, axis=0: np.concatenate(xs, axis), numpy=("concatenate", "concat"),
    samples=[sample((2, 3), (2, 0), (2, 4), axis=1), sample((2,), axis=0)],
    doc="Arrays joined along an existing axis; None flattens them first.")

copy = primitive(
    "copy", "x", "Movement", grad=(lambda dy, y, x: dy,), reference="copy", samples=[sample((2, 3))],
    doc="x itself, as another array: arrays are values, so there is rarely a need.")

iota = primitive(
    "iota", "start, step, n: int, dtype: dtype", "Create", public=False,
    reference=lambda start, step, n, dtype: (np.asarray(start) + np.asarray(step) * np.arange(n)).astype(dtype),
    samples=[sample(2, 3, n=5, dtype="int64"), sample(0, 1, n=0, dtype="int32")],
    doc="start, start + step, ...: n elements.")


@face(transpose)
def _transpose(x, axes=None):
    """Dimensions in another order; without axes, reversed."""
    x = as_array(x)
    ndim = len(x.shape)
    axes = tuple(range(ndim))[::-1] if axes is None else norm_axes(axes, ndim, "transpose")
    return transpose(x, axes)


def part(x, axis, start, length, step=1):
    """`length` elements along one axis from `start` on."""
    return slice_(x, start, axes=(axis,), lengths=(length,), steps=(step,))


# ---- shapes

@function(reference="swapaxes", samples=[sample((2, 3, 4), axis1=0, axis2=-1)])
def swapaxes(x, axis1, axis2):
    """x with two axes interchanged."""
    x = as_array(x)
    axes = list(range(len(x.shape)))
    i, j = norm_axis(axis1, len(axes), "swapaxes"), norm_axis(axis2, len(axes), "swapaxes")
    axes[i], axes[j] = axes[j], axes[i]
    return transpose(x, tuple(axes))


@function(reference="matrix_transpose", samples=[sample((2, 3, 4))])
def matrix_transpose(x):
    """The last two axes interchanged."""
    return swapaxes(x, -1, -2)


@function(reference="moveaxis", samples=[sample((2, 3, 4), source=0, destination=-1),
                                         sample((2, 3, 4), source=(0, 1), destination=(2, 0))])
def moveaxis(x, source, destination):
    """x with some axes moved elsewhere; the others keep their order."""
    x = as_array(x)
    ndim = len(x.shape)
    source, destination = norm_axes(source, ndim, "moveaxis"), norm_axes(destination, ndim, "moveaxis")
    if len(source) != len(destination):
        raise ValueError(f"[moveaxis] {len(source)} axes cannot go to {len(destination)} places. Give as many.")
    axes = [a for a in range(ndim) if a not in source]
    for to, a in sorted(zip(destination, source)):
        axes.insert(to, a)
    return transpose(x, tuple(axes))


@function(reference="squeeze", samples=[sample((1, 3, 1)), sample((1, 3, 1), axis=-1)])
def squeeze(x, axis=None):
    """x without axes of length 1: the given ones, or all."""
    x = as_array(x)
    shape = x.shape
    if axis is None:
        gone = {a for a, n in enumerate(shape) if n == 1}
    else:
        gone = set(norm_axes(axis, len(shape), "squeeze"))
        if any(shape[a] != 1 for a in gone):
            raise ValueError(f"[squeeze] an axis longer than 1 cannot go: {tuple(shape)}, axis {axis}. Use reshape.")
    return reshape(x, tuple(n for a, n in enumerate(shape) if a not in gone))


@function(reference="expand_dims", samples=[sample((2, 3), axis=1), sample((2, 3), axis=(0, -1))])
def expand_dims(x, axis):
    """x with new axes of length 1 at the given places of the result."""
    x = as_array(x)
    shape = list(x.shape)
    new = (axis,) if not isinstance(axis, (tuple, list)) else axis
    for a in sorted(norm_axes(new, len(shape) + len(new), "expand_dims")):
        shape.insert(a, 1)
    return reshape(x, tuple(shape))


@function(reference="ravel", samples=[sample((2, 3)), sample(())])
def ravel(x):
    """x in one dimension."""
    return reshape(x, (-1,)) if math.prod(as_array(x).shape) else reshape(x, (0,))


@function(samples=[sample((2, 3, 4)), sample((2, 3, 4), dims=2), sample((5,)), sample((2, 3), dims=0)],
          reference=lambda x, dims=1: np.reshape(x, (math.prod(x.shape[:dims]), -1)))
def mat(x, dims=1):
    """x as a matrix: its first `dims` dimensions become the rows, the others the columns.

    (N, C, H, W) becomes (N, C*H*W): images ready for a dense layer.

    >>> knet.mat(knet.ones((16, 3, 8, 8))).shape
    (16, 192)
    """
    x = as_array(x)
    shape = x.shape
    if not 0 <= dims <= len(shape):
        raise ValueError(f"[mat] dims={dims} is out of range for {tuple(shape)}. Use 0 to {len(shape)}.")
    return reshape(x, (math.prod(shape[:dims]), math.prod(shape[dims:])))


def _atleast(x, ndim):
    x = as_array(x)
    shape = tuple(x.shape)
    if len(shape) >= ndim:
        return ops.alias(x)
    return reshape(x, {0: (1,) * ndim, 1: (1, *shape, 1)[:ndim], 2: (*shape, 1)}[len(shape)])


def _each(xs, ndim):
    return _atleast(xs[0], ndim) if len(xs) == 1 else tuple(_atleast(x, ndim) for x in xs)


@function(reference="atleast_1d", samples=[sample(()), sample((2,))])
def atleast_1d(*xs):
    """Arrays of at least one dimension."""
    return _each(xs, 1)


@function(reference="atleast_2d", samples=[sample(()), sample((2,)), sample((2, 3))])
def atleast_2d(*xs):
    """Arrays of at least two dimensions: vectors become rows."""
    return _each(xs, 2)


@function(reference="atleast_3d", samples=[sample(()), sample((2,)), sample((2, 3))])
def atleast_3d(*xs):
    """Arrays of at least three dimensions; new ones on both sides, as in NumPy."""
    return _each(xs, 3)


@function()
def broadcast_shapes(*shapes):
    """The shape, a tuple, that shapes broadcast to."""
    out = []
    for shape in shapes:
        shape = as_shape(shape)
        out = [1] * (len(shape) - len(out)) + out
        for i, n in enumerate(reversed(shape), 1):
            if out[-i] == 1:
                out[-i] = n
            elif n not in (1, out[-i]):
                raise ValueError(
                    f"[broadcast] shapes do not broadcast: {', '.join(map(str, shapes))}. Counted from the right, "
                    "dimensions must be equal or 1: use reshape."
                )
    return tuple(out)


@function(numpy=("broadcast_arrays",))
def broadcast_arrays(*xs):
    """Arrays broadcast against each other, as a tuple."""
    xs = [as_array(x) for x in xs]
    shape = broadcast_shapes(*(x.shape for x in xs))
    return tuple(broadcast_to(x, shape) for x in xs)


# ---- joining and splitting

@function(numpy=("stack",))
def stack(arrays, axis=0):
    """Arrays of one shape joined along a new axis: n arrays (a, b) become (n, a, b), or with axis=1 (a, n, b)."""
    arrays = [as_array(x) for x in arrays]
    shapes = {tuple(x.shape) for x in arrays}
    if len(shapes) != 1:
        raise ValueError(
            f"[stack] arrays must have one shape: {', '.join(str(tuple(x.shape)) for x in arrays) or 'none given'}. "
            "Use reshape or pad."
        )
    shape = shapes.pop()
    axis = norm_axis(axis, len(shape) + 1, "stack")
    shape = (*shape[:axis], 1, *shape[axis:])
    return concatenate(*[reshape(x, shape) for x in arrays], axis=axis)


@function(numpy=("hstack",), aliases=("hcat",))
def hstack(arrays):
    """Arrays side by side: joined along axis 1, or 0 if they have one dimension."""
    arrays = [_atleast(x, 1) for x in arrays]
    return concatenate(*arrays, axis=1 if arrays and len(arrays[0].shape) > 1 else 0)


@function(numpy=("vstack",), aliases=("vcat",))
def vstack(arrays):
    """Arrays one below the other: joined along axis 0, vectors as rows."""
    return concatenate(*(_atleast(x, 2) for x in arrays))


@function(numpy=("dstack",))
def dstack(arrays):
    """Arrays one behind the other: joined along axis 2."""
    return concatenate(*(_atleast(x, 3) for x in arrays), axis=2)


@function(numpy=("column_stack",))
def column_stack(arrays):
    """Vectors as columns of a matrix; matrices side by side."""
    arrays = [as_array(x) for x in arrays]
    return concatenate(*(x if len(x.shape) > 1 else reshape(x, (-1, 1)) for x in arrays), axis=1)


@function(samples=[sample((2, 3), (4,))], reference=lambda *xs: np.concatenate([np.ravel(x) for x in xs]))
def cat1d(*xs):
    """All elements of all arrays in one dimension."""
    return concatenate(*(ravel(x) for x in xs))


def _sections(name, x, sections, axis, uneven):
    x = as_array(x)
    axis = norm_axis(axis, len(x.shape), name)
    n = x.shape[axis]
    if isinstance(sections, (tuple, list)) or getattr(sections, "ndim", 0):
        at = [0, *(min(max(int(i) + n if int(i) < 0 else int(i), 0), n) for i in sections), n]
    else:
        k = operator.index(sections)
        if k < 1 or (n % k and not uneven):
            raise ValueError(
                f"[{name}] {n} elements along axis {axis} of {tuple(x.shape)} do not split into {k} equal parts. "
                "Use array_split, or give the places where to split."
            )
        if k > max(n, 1 << 20):
            raise ValueError(f"[{name}] {k} parts of {n} elements are nearly all empty. Use at most {max(n, 1 << 20)}.")
        at = [i * (n // k) + min(i, n % k) for i in range(k + 1)]
    return [part(x, axis, a, max(b - a, 0)) for a, b in zip(at, at[1:])]


@function(numpy=("split",))
def split(x, sections, axis=0):
    """x cut along an axis into `sections` equal parts, or before each of the given indices; a list.

    Raises ValueError if the parts would not be equal (see `array_split`).

    >>> [part.tolist() for part in knet.split(knet.arange(5), [2, 3])]
    [[0, 1], [2], [3, 4]]
    """
    return _sections("split", x, sections, axis, False)


@function(numpy=("array_split",))
def array_split(x, sections, axis=0):
    """Like split, but the first parts may be longer by one."""
    return _sections("array_split", x, sections, axis, True)


@function(numpy=("unstack",))
def unstack(x, axis=0):
    """The arrays along an axis, as a tuple."""
    x = as_array(x)
    axis = norm_axis(axis, len(x.shape), "unstack")
    shape = tuple(x.shape[:axis]) + tuple(x.shape[axis + 1:])
    return tuple(reshape(part(x, axis, i, 1), shape) for i in range(x.shape[axis]))


@function(numpy=("vsplit",))
def vsplit(x, sections):
    """split along axis 0."""
    return _sections("vsplit", x, sections, 0, False)


@function(numpy=("hsplit",))
def hsplit(x, sections):
    """split along axis 1, or 0 of a vector."""
    return _sections("hsplit", x, sections, 1 if len(as_array(x).shape) > 1 else 0, False)


@function(numpy=("dsplit",))
def dsplit(x, sections):
    """split along axis 2."""
    return _sections("dsplit", x, sections, 2, False)


@function(reference="append", samples=[sample((2, 3), (2,)), sample((2, 3), (1, 3), axis=0)])
def append(x, values, axis=None):
    """x with values behind it along an axis; without axis, both flattened."""
    return cat1d(x, values) if axis is None else concatenate(as_array(x), as_array(values), axis=axis)


@function(reference="diff", samples=[sample((5,)), sample((3, 4), axis=0), sample((2, 5), n=2), sample((2, 1))])
def diff(x, n=1, axis=-1):
    """Each element along an axis less the one before it, n times; every time the axis gets shorter by one."""
    x = as_array(x)
    axis = norm_axis(axis, len(x.shape), "diff")
    if n < 0:
        raise ValueError(f"[diff] n={n} differences. Use 0 or more.")
    if min(n, x.shape[axis]) == 0:
        return ops.alias(x)
    for _ in range(min(n, x.shape[axis])):
        length = x.shape[axis] - 1
        x = ops.subtract(part(x, axis, 1, length), part(x, axis, 0, length))
    return x


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


# ---- arrays from nothing

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
