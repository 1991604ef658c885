"""Elements chosen by arrays of indices: gather and its adjoints, along-axis forms, sorting.

Negative indices count from the end; others out of range are an error when the program runs. Where an index occurs
several times, additions add up and, of assignments, the last one stays.
"""
import math

from .create import default_float
from .define import face, function, np, ops, primitive, sample
from .shape import _zeros, as_array, norm_axis, part, ravel, reshape

# ---- primitives


def _np_index(x, idx, axes, at):
    """x with the indexed axes in front, the shape of the index, and where its axes go."""
    rest = [a for a in range(x.ndim) if a not in axes]
    return np.transpose(x, [*axes, *rest]), rest


def _np_gather(x, *idx, axes, at):
    front, _ = _np_index(x, idx, axes, at)
    y = front[tuple(idx)]
    k = idx[0].ndim
    return np.moveaxis(y, range(k), range(at, at + k))


def _np_scatter(x, v, *idx, axes, at, add):
    front, rest = _np_index(x, idx, axes, at)
    y = np.array(front)
    k = np.ndim(idx[0])
    v = np.moveaxis(v, range(at, at + k), range(k))
    where = tuple(idx)
    if add:
        np.add.at(y, where, v)
    else:
        for place in np.ndindex(idx[0].shape):
            y[tuple(i[place] for i in idx)] = v[place]
    return np.transpose(y, np.argsort([*axes, *rest]))


def _indices(n, *shape):
    return lambda rng: rng.integers(-n, n, shape)


gather = primitive(
    "gather", "x, *idx, axes: ints, at: int", "Index", public=False,
    grad=lambda dy, y, x, *idx, axes, at: [scatter_add(_zeros(x), dy, *idx, axes=axes, at=at)] + [None] * len(idx),
    reference=_np_gather,
    samples=[sample((5, 3), _indices(5, 4), axes=(0,), at=0), sample((2, 5, 3), _indices(5, 2, 2), axes=(1,), at=1),
             sample((5, 2, 4), _indices(5, 3), _indices(4, 3), axes=(0, 2), at=0),
             sample((5, 2, 4), _indices(5, 3), _indices(4, 3), axes=(0, 2), at=1)],
    doc="x at the indices along `axes`; the shape of the index stands at position `at` among the other axes.")

scatter_add = primitive(
    "scatter_add", "x, v, *idx, axes: ints, at: int", "Index", public=False,
    grad=lambda dy, y, x, v, *idx, axes, at: [dy, gather(dy, *idx, axes=axes, at=at)] + [None] * len(idx),
    reference=lambda x, v, *idx, axes, at: _np_scatter(x, v, *idx, axes=axes, at=at, add=True),
    samples=[sample((5, 3), (4, 3), _indices(5, 4), axes=(0,), at=0),
             sample((5, 2, 4), (2, 3), _indices(5, 3), _indices(4, 3), axes=(0, 2), at=1)],
    doc="x with v added at the indices; the shape of v is that of gather's result.")


def _scatter_set_grad(dy, y, x, v, *idx, axes, at):
    # Of values written to the same place only the last one stays, and it alone has a derivative. To find it, each value
    # writes its number there.
    number = ops.iota(1, 1, n=math.prod(v.shape), dtype="int64")
    number = reshape(number, v.shape)
    last = scatter_set(ops.broadcast_to(ops.cast(0, dtype="int64"), x.shape), number, *idx, axes=axes, at=at)
    stays = ops.equal(gather(last, *idx, axes=axes, at=at), number)
    dx = ops.where(ops.equal(last, 0), dy, 0)
    dv = ops.where(stays, gather(dy, *idx, axes=axes, at=at), 0)
    return [dx, dv] + [None] * len(idx)


scatter_set = primitive(
    "scatter_set", "x, v, *idx, axes: ints, at: int", "Index", public=False,
    grad=_scatter_set_grad,
    reference=lambda x, v, *idx, axes, at: _np_scatter(x, v, *idx, axes=axes, at=at, add=False),
    samples=[sample((5, 3), (4, 3), _indices(5, 4), axes=(0,), at=0),
             sample((5, 2, 4), (2, 3), _indices(5, 3), _indices(4, 3), axes=(0, 2), at=1)],
    doc="x with elements replaced by v at the indices.")

take_along_axis = primitive(
    "take_along_axis",
    "x, i, axis: axis",
    "Index",
    grad=(lambda dy, y, x, i, axis: scatter_along_axis(_zeros(x), dy, i, axis=axis), None),
    reference="take_along_axis",
    samples=[sample((3, 5), _indices(5, 3, 2), axis=1), sample((4, 2), _indices(4, 6, 2), axis=0)],
    doc="y[..., j, ...] = x[..., i[..., j, ...], ...]: each line along the axis has its own indices.",
)


def _np_scatter_along(x, v, i, axis):
    y = np.array(x)
    place = list(np.indices(i.shape))
    place[axis] = i
    np.add.at(y, tuple(place), v)
    return y


scatter_along_axis = primitive(
    "scatter_along_axis", "x, v, i, axis: axis", "Index", public=False,
    grad=(lambda dy, y, x, v, i, axis: dy, lambda dy, y, x, v, i, axis: take_along_axis(dy, i, axis=axis), None),
    reference=_np_scatter_along,
    samples=[sample((3, 5), (3, 2), _indices(5, 3, 2), axis=1), sample((4, 2), (6, 2), _indices(4, 6, 2), axis=0)],
    doc="x with v added at the indices of each line along the axis.")


def _np_sort(x, axis, descending=False):
    if descending:  # stable, with NaN last
        order = np.argsort(np.where(np.isnan(x), np.inf, -x) if x.dtype.kind == "f" else ~x, axis=axis, kind="stable")
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    return np.take_along_axis(x, order, axis), order


sort = primitive(
    "sort", "x, axis: axis = -1, descending: bool = False", "Index", n_out=2,
    grad=lambda dy, y, x, axis, descending:
        [None if dy[0] is None else scatter_along_axis(_zeros(x), dy[0], y[1], axis=axis)],
    reference=_np_sort, numpy=("sort",),
    samples=[sample((3, 5), axis=1), sample((4, 3), axis=0, descending=True)],
    doc="Values in order along an axis, equal ones in their old order, NaN last; and their old indices.")


# ---- NumPy's functions

def _flat(x, axis, name):
    x = as_array(x)
    if axis is None:
        return ravel(x), 0
    return x, norm_axis(axis, len(x.shape), name)


@face(take_along_axis)
def _take_along_axis(x, indices, axis=-1):
    """y[..., j, ...] = x[..., indices[..., j, ...], ...]: each line along the axis has its own indices. Other axes
    broadcast."""
    x, axis = _flat(x, axis, "take_along_axis")
    i = as_array(indices)
    if len(i.shape) != len(x.shape):
        raise ValueError(
            f"[take_along_axis] array and indices differ in dimensions: {tuple(x.shape)} and {tuple(i.shape)}. "
            "Use expand_dims."
        )
    common = list(ops.broadcast_shapes(*([n for a, n in enumerate(s) if a != axis] for s in (x.shape, i.shape))))
    x, i = (_to(v, (*common[:axis], v.shape[axis], *common[axis:])) for v in (x, i))
    return take_along_axis(x, i, axis=axis)


def _to(x, shape):
    return x if tuple(x.shape) == shape else ops.broadcast_to(x, shape)


@face(sort)
def _sort(x, axis=-1, descending=False):
    """x in increasing order along an axis (None: flattened), NaN last."""
    x, axis = _flat(x, axis, "sort")
    return sort(x, axis=axis, descending=descending)[0]


@function(numpy=("argsort",), samples=[sample((3, 5)), sample((3, 4), axis=0)],
          reference=lambda x, axis=-1: np.argsort(x, axis=axis, kind="stable"))
def argsort(x, axis=-1, descending=False):
    """The indices that sort x along an axis; equal elements keep their order."""
    x, axis = _flat(x, axis, "argsort")
    return sort(x, axis=axis, descending=descending)[1]


@function(samples=[sample((3, 5), k=2), sample((5, 3), k=2, axis=0), sample((3, 5), k=3, largest=False)],
          reference=lambda x, k, axis=-1, largest=True:
              tuple(np.take(v, range(k), axis) for v in _np_sort(x, axis, largest)))
def topk(x, k, axis=-1, largest=True):
    """The k largest (or smallest) elements along an axis, best first, and their int64 indices.

    >>> values, indices = knet.topk(knet.array([3.0, 1.0, 2.0]), 2)
    >>> values.tolist(), indices.tolist()
    ([3.0, 2.0], [0, 2])
    """
    x, axis = _flat(x, axis, "topk")
    n = x.shape[axis]
    if not 0 <= k <= n:
        raise ValueError(
            f"[topk] k={k} is out of range for {n} elements along axis {axis} of {tuple(x.shape)}. Use 0 to {n}."
        )
    return tuple(part(v, axis, 0, k) if k < n else v for v in sort(x, axis=axis, descending=largest))


@function(
    reference="take",
    samples=[
        sample((5, 3), _indices(5, 4), axis=0),
        sample((2, 5, 3), _indices(5, 2, 2), axis=1),
        sample((2, 5), _indices(10, 3)),
    ],
)
def take(x, indices, axis=None):
    """x at the indices along an axis (None: of the flattened array), which may be integers of any shape.

    Raises IndexError when it runs and an index is out of range.

    >>> knet.take(knet.array([10, 20, 30]), [[2, 0], [-1, 1]]).tolist()
    [[30, 10], [30, 20]]
    """
    x, axis = _flat(x, axis, "take")
    return gather(x, as_array(indices), axes=(axis,), at=axis)


def _operands(x, indices, values, axis, name):
    x, axis = _flat(x, axis, name)
    i = as_array(indices)
    v = as_array(values)
    shape = (*x.shape[:axis], *i.shape, *x.shape[axis + 1:])
    return x, _to(v, shape), i, {"axes": (axis,), "at": axis}


@function(numpy=("nonzero",))
def nonzero(x):
    """The indices of the elements that are not 0: one vector for each axis, for x[nonzero(x)]. Their number depends on
    the values, so this reads x."""
    x = as_array(x)
    return tuple(ops.alias(i) for i in np.nonzero(np.asarray(x._memory())))


@function(numpy=("flatnonzero",))
def flatnonzero(x):
    """The indices in the flattened x of the elements that are not 0; reads x."""
    return nonzero(ravel(as_array(x)))[0]


@function(numpy=("argwhere",))
def argwhere(x):
    """The indices of the elements that are not 0, one row for each element; reads x."""
    x = as_array(x)
    return ops.alias(np.argwhere(np.asarray(x._memory())))


@function(samples=[sample((5, 3), _indices(5, 4), (4, 3)), sample((2, 5), _indices(5, 3), (), axis=1)],
          reference=lambda x, i, v, axis=0: _np_scatter(
              x, np.broadcast_to(v, x.shape[:axis] + i.shape + x.shape[axis + 1:]), i, axes=(axis,), at=axis, add=True))
def index_add(x, indices, values, axis=0):
    """x with values added at the indices along an axis; repeated indices add up, where `x[i] += v`
    keeps only the last.

    indices: integers of any shape; values: broadcast to the shape of take(x, indices, axis), and of x's type.

    >>> knet.index_add(knet.zeros(3), [0, 2, 2], [1.0, 2.0, 3.0]).tolist()
    [1.0, 0.0, 5.0]
    """
    x, v, i, attrs = _operands(x, indices, values, axis, "index_add")
    return scatter_add(x, v, i, **attrs)


@function(
    samples=[sample((5, 3), _indices(5, 4), (4, 3)), sample((2, 5), _indices(5, 3), (), axis=1)],
    reference=lambda x, i, v, axis=0: _np_scatter(
        x, np.broadcast_to(v, x.shape[:axis] + i.shape + x.shape[axis + 1 :]), i, axes=(axis,), at=axis, add=False
    ),
)
def index_put(x, indices, values, axis=0):
    """x with elements replaced by values at the indices along an axis; of repeated indices the last one stays."""
    x, v, i, attrs = _operands(x, indices, values, axis, "index_put")
    return scatter_set(x, v, i, **attrs)


@function(samples=[sample((3, 5), _indices(5, 3, 2), (3, 2), axis=1)],
          reference=lambda x, i, v, axis=-1: _np_scatter_along(x, v, i, axis))
def add_along_axis(x, indices, values, axis=-1):
    """x with values added at the indices of each line along an axis: the adjoint of take_along_axis."""
    x, axis = _flat(x, axis, "add_along_axis")
    i = as_array(indices)
    v = as_array(values)
    shape = tuple(n if a == axis else x.shape[a] for a, n in enumerate(i.shape))
    return scatter_along_axis(x, _to(v, shape), _to(i, shape), axis=axis)


@function(samples=[sample(_indices(2, 4), 5)], reference=lambda i, n, axis=-1: np.eye(n, dtype="float32")[i % n])
def one_hot(indices, n, axis=-1, dtype=None):
    """Zeros with a one at each index, along a new axis of length n; an index outside 0..n-1 (or -n..-1) gives zeros.

    indices: integers of any shape; dtype: float32 (see `knet.config`) unless given.

    >>> knet.one_hot([2, 0], 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    i = as_array(indices)
    shape = tuple(i.shape)
    axis = norm_axis(axis, len(shape) + 1, "one_hot")
    places = ops.iota(0, 1, n=n, dtype="int64")
    if axis != len(shape):
        places = reshape(places, (n,) + (1,) * (len(shape) - axis))
    i = reshape(i, (*shape[:axis], 1, *shape[axis:]))
    hit = ops.equal(ops.where(ops.less(i, 0), ops.add(i, n), i), places)
    return ops.cast(hit, dtype=default_float() if dtype is None else dtype)
