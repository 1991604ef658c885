"""Reductions: sums, extrema, counts, statistics, norms, and running sums and products.

`axis` is one axis, several, or None for all; with `keepdims` the reduced axes stay, with extent 1. Rules and expansions
get `axis` normalised: a sorted tuple of non-negative integers (one integer for attributes of kind axis).
"""
from .define import as_array, compound, function, np, ops, primitive, sample


def _kept(shape, axis):
    """The shape with the reduced axes kept."""
    return tuple(1 if i in axis else n for i, n in enumerate(shape))


def _count(shape, axis):
    n = 1
    for i in axis:
        n *= shape[i]
    return n


def _unreduce(v, x, axis, keepdims):
    """A reduced value in a shape that broadcasts against x."""
    return v if keepdims else ops.reshape(v, _kept(x.shape, axis))


def _spread(dy, x, axis, keepdims):
    """The same gradient for every element of x that was reduced into one."""
    return ops.broadcast_to(_unreduce(dy, x, axis, keepdims), x.shape)


_SHAPES = (
    sample((3, 4)), sample((3, 4), axis=0), sample((3, 4), axis=-1, keepdims=True),
    sample((2, 3, 4), axis=(0, 2)), sample((2, 3, 4), axis=(2, 1), keepdims=True), sample((5,), axis=0), sample(()),
    sample((2, 3), axis=()),
)
_EMPTY = (sample((0, 3), axis=0), sample((0,)))


# ---- sums and products

sum = primitive(
    "sum", "x, axis: axes = None, keepdims: bool = False", "Reduce", reference="sum", samples=_SHAPES + _EMPTY,
    grad=(lambda dy, y, x, axis, keepdims: _spread(dy, x, axis, keepdims),),
    doc="The sum over axes; of bools and small integers in 64 bits.")


def _moved(v, axis, by, fill):
    """v moved `by` places along an axis (towards the front if negative); what becomes free is `fill`."""
    n = v.shape[axis]
    by = max_(-n, min_(n, by))
    hole = ops.broadcast_to(ops.cast(fill, v.dtype), (*v.shape[:axis], abs(by), *v.shape[axis + 1:]))
    rest = ops.slice(v, max_(0, -by), axes=(axis,), lengths=(n - abs(by),), steps=(1,))
    return ops.concatenate(*((hole, rest) if by > 0 else (rest, hole)), axis=axis)


def _product_of_others(x, axis):
    """For each element along an axis, the product of all others. No division, so zeros are right."""
    return (ops.cumprod(_moved(x, axis, 1, 1), axis) *
            ops.cumprod(_moved(x, axis, -1, 1), axis, True))


def _joined(x, axis):
    """x with the given axes moved to the end and made one, and the order of axes that this took."""
    rest = [i for i in range(x.ndim) if i not in axis]
    order = (*rest, *axis)
    return ops.reshape(ops.transpose(x, order), (*(x.shape[i] for i in rest), _count(x.shape, axis))), order


def _dprod(dy, y, x, axis, keepdims):
    flat, order = _joined(x, axis)
    others = ops.reshape(_product_of_others(flat, flat.ndim - 1), tuple(x.shape[i] for i in order))
    return _unreduce(dy, x, axis, keepdims) * ops.transpose(others, tuple(order.index(i) for i in range(x.ndim)))


prod = primitive(
    "prod", "x, axis: axes = None, keepdims: bool = False", "Reduce", reference="prod",
    samples=_SHAPES + _EMPTY + (sample(lambda rng: np.array([[0.0, 2, 3], [0, 0, 3], [2, 3, 0]]), axis=1),),
    grad=(_dprod,),
    doc="The product over axes; its derivative is right where there are zeros.")

cumsum = primitive(
    "cumsum", "x, axis: axis = None, reverse: bool = False", "Other", numpy=("cumsum",),
    reference=lambda x, axis=None, reverse=False: _scan(np.cumsum, x, axis, reverse),
    samples=(sample((3, 4)), sample((3, 4), axis=0), sample((2, 3, 4), axis=1, reverse=True), sample((0,))),
    grad=(lambda dy, y, x, axis, reverse: ops.cumsum(dy, axis, not reverse),),
    doc="Sums of the elements up to each one (from each one on if reverse) along an axis.")


def _dcumprod(dy, y, x, axis, reverse):
    """dx[i] = (product of x before i) * s[i], where s[i] = dy[i] + x[i+1] * s[i+1] is a linear recurrence: it is solved
    by doubling, in log2(n) rounds, where the usual quotient y / x would fail at zeros. For `reverse`, mirrored."""
    step = 1 if reverse else -1
    a, s = _moved(x, axis, step, 0), dy
    for _ in range(max_(x.shape[axis] - 1, 0).bit_length()):
        s = s + a * _moved(s, axis, step, 0)
        a = a * _moved(a, axis, step, 0)
        step *= 2
    return ops.cumprod(_moved(x, axis, 1 if not reverse else -1, 1), axis, reverse) * s


cumprod = primitive(
    "cumprod", "x, axis: axis = None, reverse: bool = False", "Other", numpy=("cumprod",),
    reference=lambda x, axis=None, reverse=False: _scan(np.cumprod, x, axis, reverse),
    samples=(sample((3, 4)), sample((3, 4), axis=0), sample((2, 5, 2), axis=1, reverse=True), sample((0,)),
             sample(lambda rng: np.array([[0.0, 2, 3, 4], [0, 0, 3, 1], [2, 3, 0, 5]]), axis=1)),
    grad=(_dcumprod,),
    doc="Products of the elements up to each one (from each one on if reverse) along an axis.")


def _scan(fn, x, axis, reverse):
    x, axis = (np.ravel(x), 0) if axis is None else (np.asarray(x), axis)
    return np.flip(fn(np.flip(x, axis), axis=axis), axis) if reverse else fn(x, axis=axis)


# ---- extrema

def _dextremum(dy, y, x, axis, keepdims):
    chosen = ops.cast(x == _unreduce(y, x, axis, keepdims), x.dtype)
    return chosen * (_unreduce(dy, x, axis, keepdims) / ops.sum(chosen, axis, True))


min_, max_ = min, max  # Python's own
_INF = float("inf")

max = primitive(
    "max", "x, axis: axes = None, keepdims: bool = False", "Reduce", aliases=("amax",), reference="max",
    numpy=("amax",), samples=_SHAPES, grad=(_dextremum,),
    doc="The largest element over axes; NaN if there is one. Elements that tie share the gradient equally.")

min = primitive(
    "min", "x, axis: axes = None, keepdims: bool = False", "Reduce", aliases=("amin",), reference="min",
    numpy=("amin",), samples=_SHAPES, grad=(_dextremum,),
    doc="The smallest element over axes; NaN if there is one. Elements that tie share the gradient equally.")

argmax = primitive(
    "argmax", "x, axis: axis = None, keepdims: bool = False", "Reduce", reference="argmax",
    samples=(sample((3, 4)), sample((3, 4), axis=0), sample((2, 3, 4), axis=-1, keepdims=True)),
    doc="The index of the largest element along an axis, the first of several; NaN counts as the largest.")

argmin = primitive(
    "argmin", "x, axis: axis = None, keepdims: bool = False", "Reduce", reference="argmin",
    samples=(sample((3, 4)), sample((3, 4), axis=0), sample((2, 3, 4), axis=-1, keepdims=True)),
    doc="The index of the smallest element along an axis, the first of several; NaN counts as the smallest.")


@function(reference="ptp", samples=_SHAPES)
def ptp(x, axis=None, keepdims=False):
    """The largest element less the smallest, over axes."""
    return max(x, axis, keepdims) - min(x, axis, keepdims)


# ---- truth and counts

any = primitive(
    "any", "x, axis: axes = None, keepdims: bool = False", "Reduce", reference="any", samples=_SHAPES + _EMPTY,
    doc="Whether at least one element over axes is not 0.")

all = primitive(
    "all", "x, axis: axes = None, keepdims: bool = False", "Reduce", reference="all", samples=_SHAPES + _EMPTY,
    doc="Whether no element over axes is 0.")


@function(reference="count_nonzero", samples=_SHAPES[:-2] + _EMPTY)
def count_nonzero(x, axis=None, keepdims=False):
    """How many elements over axes are not 0."""
    return sum(ops.not_equal(x, 0), axis, keepdims)


# ---- statistics

def _wide(x):
    """Integers of 64 bits as floats: their sum may overflow."""
    return ops.cast(x, dtype="float64") if x.dtype in ("int64", "uint64") else x


mean = compound(
    "mean", "x, axis: axes = None, keepdims: bool = False", reference="mean", samples=_SHAPES,
    expand=lambda x, axis, keepdims: sum(_wide(x), axis, keepdims) / _count(x.shape, axis),
    grad=(lambda dy, y, x, axis, keepdims: _spread(dy / _count(x.shape, axis), x, axis, keepdims),),
    doc="The mean over axes; NaN of nothing.")


@function(reference="average", samples=(
    sample((3, 4)), sample((3, 4), axis=0), sample((3, 4), axis=1, weights=lambda rng: rng.uniform(1, 2, (3, 4)))))
def average(x, axis=None, weights=None, keepdims=False):
    """The mean over axes, each element counted with its weight (weights have the shape of x)."""
    if weights is None:
        return mean(x, axis, keepdims)
    return sum(x * weights, axis, keepdims) / sum(weights + 0 * x, axis, keepdims)


def _deviation(x, axis):
    return x - mean(x, axis, True)


def _freedom(x, axis, ddof):
    return max_(_count(x.shape, axis) - ddof, 0)


_SPREADS = (
    sample((3, 4)), sample((3, 4), axis=0), sample((3, 4), axis=-1, keepdims=True), sample((2, 3, 4), axis=(0, 2)),
    sample((5,), axis=0, ddof=1), sample((2, 3, 4), axis=1, ddof=1, keepdims=True),
)

var = compound(
    "var", "x, axis: axes = None, ddof: int = 0, keepdims: bool = False", reference="var", samples=_SPREADS,
    expand=lambda x, axis, ddof, keepdims:
        sum(ops.square(_deviation(x, axis)), axis, keepdims) / _freedom(x, axis, ddof),
    grad=(lambda dy, y, x, axis, ddof, keepdims:
          _unreduce(dy * 2 / _freedom(x, axis, ddof), x, axis, keepdims) * _deviation(x, axis),),
    doc="The variance over axes: squared deviations from the mean, summed, over n - ddof.")


def _dstd(dy, y, x, axis, ddof, keepdims):
    dy = dy / (_freedom(x, axis, ddof) * ops.where(y == 0, 1, y))
    return _unreduce(dy, x, axis, keepdims) * _deviation(x, axis)


std = compound(
    "std", "x, axis: axes = None, ddof: int = 0, keepdims: bool = False", reference="std", samples=_SPREADS,
    expand=lambda x, axis, ddof, keepdims: ops.sqrt(ops.var(x, axis, ddof, keepdims)), grad=(_dstd,),
    doc="The standard deviation over axes, sqrt(var); where it is 0 its derivative is taken as 0.")


def _median(x, axis, keepdims):
    flat, _ = _joined(x, axis)
    last = flat.ndim - 1
    ordered, _ = ops.sort(flat, last)

    def at(i):
        return ops.slice(ordered, i, axes=(last,), lengths=(1,), steps=(1,))
    n = flat.shape[last]
    middle, largest = (at((n - 1) // 2) + at(n // 2)) / 2, at(n - 1)  # NaN is sorted to the end
    kept = _kept(x.shape, axis) if keepdims else flat.shape[:last]
    return ops.reshape(ops.where(largest != largest, largest, middle), kept)


median = compound(
    "median", "x, axis: axes = None, keepdims: bool = False", expand=_median, reference="median",
    samples=_SHAPES[:-1] + (sample((2, 4), axis=1),),
    doc="The middle element over axes, or the mean of the two middle ones; NaN if there is one.")


# ---- without NaN

def _with_nan(rng):
    return np.where(np.eye(3, 4) == 1, np.nan, rng.uniform(-2, 2, (3, 4)))


_HOLES = (sample(_with_nan), sample(_with_nan, axis=0), sample(_with_nan, axis=1, keepdims=True))


def _is_float(x):
    return "float" in str(x.dtype)


@function(reference="nansum", samples=_HOLES)
def nansum(x, axis=None, keepdims=False):
    """The sum over axes, NaN left out."""
    x = as_array(x)
    return sum(ops.where(ops.isnan(x), 0, x) if _is_float(x) else x, axis, keepdims)


@function(reference="nanmean", samples=_HOLES)
def nanmean(x, axis=None, keepdims=False):
    """The mean over axes, NaN left out; NaN of nothing."""
    x = as_array(x)
    if not _is_float(x):
        return mean(x, axis, keepdims)
    count = sum(ops.cast(ops.logical_not(ops.isnan(x)), x.dtype), axis, keepdims)
    return nansum(x, axis, keepdims) / count


def _nan_extremum(reduce, worst, x, axis, keepdims):
    x = as_array(x)
    if not _is_float(x):
        return reduce(x, axis, keepdims)
    y = reduce(ops.where(ops.isnan(x), worst, x), axis, keepdims)
    return ops.where(all(ops.isnan(x), axis, keepdims), float("nan"), y)


@function(reference="nanmax", samples=_HOLES)
def nanmax(x, axis=None, keepdims=False):
    """The largest element over axes, NaN left out; NaN of nothing else."""
    return _nan_extremum(max, -_INF, x, axis, keepdims)


@function(reference="nanmin", samples=_HOLES)
def nanmin(x, axis=None, keepdims=False):
    """The smallest element over axes, NaN left out; NaN of nothing else."""
    return _nan_extremum(min, _INF, x, axis, keepdims)


# ---- log-sum-exp and norms

def _finite(m):
    """m, but 0 where it is infinite: subtracted from an infinity of the same sign it would make NaN."""
    return ops.where(ops.isfinite(m), m, 0)


def _logsumexp(x, axis, keepdims):
    m = _finite(max(x, axis, True))
    total = sum(ops.exp(x - m), axis, True)
    y = ops.log(total) + m
    return y if keepdims else ops.reshape(y, tuple(n for i, n in enumerate(x.shape) if i not in axis))


logsumexp = compound(
    "logsumexp", "x, axis: axes = None, keepdims: bool = False", expand=_logsumexp, samples=_SHAPES,
    reference=lambda x, axis=None, keepdims=False: np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)),
    grad=(lambda dy, y, x, axis, keepdims: _unreduce(dy, x, axis, keepdims)
          * ops.exp(x - _finite(_unreduce(y, x, axis, keepdims))),),
    doc="log(sum(exp(x))) over axes, without overflow.")

norm2 = compound(
    "norm2", "x, axis: axes = None, keepdims: bool = False", public=False, samples=_SHAPES,
    reference=lambda x, axis=None, keepdims=False: np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims)),
    expand=lambda x, axis, keepdims: ops.sqrt(sum(ops.square(x), axis, keepdims)),
    grad=(lambda dy, y, x, axis, keepdims: _unreduce(dy / ops.where(y == 0, 1, y), x, axis, keepdims) * x,),
    doc="The Euclidean length over axes; its derivative at 0 is taken as 0.")

def _vector_norm(x, ord=2, axis=None, keepdims=False):
    x = np.asarray(x)
    if ord == 0:
        return np.sum(x != 0, axis=axis, keepdims=keepdims, dtype=x.dtype)
    if abs(ord) == _INF:
        return (np.max if ord > 0 else np.min)(abs(x), axis=axis, keepdims=keepdims)
    return np.sum(abs(x) ** ord, axis=axis, keepdims=keepdims) ** (1 / ord)


@function(reference=_vector_norm, domain=[[(-2, -0.2), (0.2, 2)]], samples=[
    *(sample((3, 4), ord=p) for p in (0, 1, 2, 3, 0.5, _INF, -_INF)),
    sample((2, 3, 4), ord=3, axis=(0, 2)), sample((2, 3, 4), ord=1, axis=1, keepdims=True)])
def norm(x, ord=2, axis=None, keepdims=False):
    """The norm of the elements over axes: (sum of |x|**ord) ** (1/ord); for inf and -inf the largest and smallest |x|,
    for 0 the number of elements that are not 0. Derivatives at the zero vector are 0."""
    x = as_array(x)
    if ord == 2:
        return norm2(x, axis, keepdims)
    if ord == 0:
        return ops.cast(count_nonzero(x, axis, keepdims), x.dtype)
    size = ops.absolute(x)
    if ord in (_INF, -_INF):
        return (max if ord > 0 else min)(size, axis, keepdims)
    if ord == 1:
        return sum(size, axis, keepdims)
    total = sum(ops.power(size, ord), axis, keepdims)
    zero = total == 0
    return ops.where(zero, 0, ops.power(ops.where(zero, 1, total), 1 / ord))
