"""Arrays in another shape, cut and joined.

The primitives move elements; everything else here, in create.py and in rearrange.py is made of them. Starts of
slices are values, so a slice at another offset makes no new plan. The derivative of each primitive is written with
primitives, so all orders exist.
"""
import math
import operator

from .define import face, function, np, ops, primitive, sample

# ---- arguments

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


def _by(n, xs):
    """The list in groups of n."""
    return [xs[i:i + n] for i in range(0, len(xs), n)]


def _slices_grad(dy, y, x, *starts, axes, lengths, steps):
    dx = _zeros(x)
    for k, at in enumerate(_by(len(axes), starts)):
        dx = slice_add(dx, reshape(part(dy, 0, k, 1), dy.shape[1:]), *at, axes=axes, steps=steps)
    return [dx] + [None] * len(starts)


def _splice_grad(dy, y, *xs, shape, pieces):
    dy, at = reshape(dy, (-1,)), 0
    dxs = [reshape(_zeros(x), (-1,)) for x in xs]
    for which, start, n in _by(3, pieces):
        dxs[which] = slice_add(dxs[which], part(dy, 0, at, n), start, axes=(0,), steps=(1,))
        at += n
    return [reshape(dx, x.shape) for dx, x in zip(dxs, xs)]


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

slices = primitive(
    "slices",
    "x, *starts, axes: ints, lengths: ints, steps: ints",
    "Movement",
    public=False,
    grad=_slices_grad,
    reference=lambda x, *starts, axes, lengths, steps: np.stack(
        [x[_index(x, at, axes, lengths, steps)] for at in _by(len(axes), starts)]),
    samples=[
        sample((5, 6), 1, 4, 0, 5, 1, 4, axes=(0, 1), lengths=(2, 3), steps=(2, -2)),
        sample((4, 3), 2, 0, axes=(0,), lengths=(1,), steps=(1,)),
    ],
    doc="Several regions of x, each as a slice, along a new first axis.",
)

splice = primitive(
    "splice",
    "*xs, shape: shape, pieces: ints",
    "Movement",
    public=False,
    grad=_splice_grad,
    reference=lambda *xs, shape, pieces: np.concatenate(
        [xs[which].ravel()[start:start + n] for which, start, n in _by(3, pieces)]).reshape(shape),
    samples=[
        sample((2, 3), (4,), shape=(3, 2), pieces=(0, 2, 3, 1, 0, 2, 0, 1, 1)),
        sample((2,), shape=(2,), pieces=(0, 0, 2)),
    ],
    doc="Elements in C order, one piece after the other: of which input, from which element on, how many.",
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
