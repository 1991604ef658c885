"""The softmax family, losses and metrics, dropout.

Knet's meanings: the softmax functions work over everything if no axis is given; losses and metrics take classes along
`axis` (the last one) and average over instances, or with average=False return (total, number of instances).
"""
from .define import as_array, compound, engine, function, np, ops, sample
from .random import next_key

_SOFTMAX = (sample((3, 4)), sample((3, 4), axis=1), sample((2, 3, 4), axis=(0, 2)), sample((2, 3, 4), axis=-1),
            sample((5,), axis=0), sample((1,)))


# ---- the softmax family

def _exponentials(x, axis):
    """exp(x - max), which cannot overflow."""
    return ops.exp(x - ops.max(x, axis, True))


def _softmax(x, axis):
    if 0 in x.shape:
        return x
    e = _exponentials(x, axis)
    return e / ops.sum(e, axis, True)


softmax = compound(
    "softmax", "x, axis: axes = None", expand=_softmax, samples=_SOFTMAX,
    reference=lambda x, axis=None: np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True),
    grad=(lambda dy, y, x, axis: y * (dy - ops.sum(dy * y, axis, True)),),
    doc="exp(x) / sum(exp(x)) over axes, without overflow.")


def _logp(x, axis):
    if 0 in x.shape:
        return x
    shifted = x - ops.max(x, axis, True)
    return shifted - ops.log(ops.sum(ops.exp(shifted), axis, True))


logp = compound(
    "logp", "x, axis: axes = None", expand=_logp, aliases=("log_softmax", "logsoftmax"), samples=_SOFTMAX,
    reference=lambda x, axis=None: x - np.log(np.sum(np.exp(x), axis=axis, keepdims=True)),
    grad=(lambda dy, y, x, axis: dy - ops.exp(y) * ops.sum(dy, axis, True),),
    doc="log(softmax(x)): x less its log-sum-exp over axes.")


# ---- losses and metrics over classes

def _without(shape, axis):
    return (*shape[:axis], *shape[axis + 1:])


def _with(shape, axis):
    return (*shape[:axis], 1, *shape[axis:])


def _label_logp(scores, labels, axis):
    # A negative label is an error, not a class counted from the end.
    index = ops.reshape(ops.where(labels < 0, scores.shape[axis], labels), _with(labels.shape, axis))
    return ops.reshape(ops.take_along_axis(logp(scores, axis), index, axis), labels.shape)


def _dlabel_logp(dy, y, scores, labels, axis):
    """dy * (1 at the label, 0 elsewhere, less softmax). Comparison with the class numbers is elementwise, so that the
    whole fuses into one pass; the range of the labels was checked by the forward gather."""
    n = scores.shape[axis]
    classes = ops.reshape(ops.iota(0, 1, n, "int64"), (n,) + (1,) * (scores.ndim - axis - 1))
    kept = _with(labels.shape, axis)
    hit = ops.cast(ops.reshape(labels, kept) == classes, scores.dtype)
    return ops.reshape(dy, kept) * (hit - softmax(scores, axis))


def _draw_labels(*shape, classes):
    return lambda rng: rng.integers(0, classes, shape)


label_logp = compound(
    "label_logp", "scores, labels, axis: axis = -1", public=False, expand=_label_logp, grad=(_dlabel_logp, None),
    reference=lambda scores, labels, axis=-1: np.take_along_axis(
        logp.reference(scores, axis), np.expand_dims(labels, axis), axis).squeeze(axis),
    samples=(sample((3, 4), _draw_labels(3, classes=4)), sample((3, 4), _draw_labels(4, classes=3), axis=0),
             sample((2, 3, 4), _draw_labels(2, 4, classes=3), axis=1)),
    doc="logp(scores) at the label of each instance.")


def _instances(name, scores, labels, axis):
    """Labels as int64, their shape checked against that of the scores, and the axis of the classes."""
    labels = as_array(labels)
    if labels.dtype.kind not in "iub":
        raise TypeError(f"[{name}] labels are class numbers, not {labels.dtype}. Pass integers: labels.astype(int).")
    labels = ops.cast(labels, "int64")
    if not -scores.ndim <= axis < scores.ndim:
        raise ValueError(f"[{name}] no axis {axis} in scores: {tuple(scores.shape)}. Give the axis of the classes.")
    axis %= scores.ndim
    if tuple(labels.shape) != _without(scores.shape, axis):
        raise ValueError(
            f"[{name}] labels do not match scores: {tuple(labels.shape)} and {tuple(scores.shape)} with classes along "
            f"axis {axis}. Pass one label for each instance: {_without(scores.shape, axis)}.")
    return labels, axis


def _total(each, average, count):
    """What every loss returns: the mean, or the total and the number of instances."""
    total = ops.sum(each)
    return _over(total, count) if average else (total, count)


def _over(total, count):
    return total / (count if isinstance(count, int) else ops.cast(count, total.dtype))


def _kept(labels, ignore):
    """Which instances count (None: all), and how many these are."""
    if ignore is None:
        return None, labels.size
    kept = labels != ignore
    return kept, ops.sum(kept)


def _nll_reference(scores, labels, axis=-1, average=True, ignore=-1):
    labels = np.asarray(labels)
    kept = labels != ignore
    total = -np.sum(np.where(kept, label_logp.reference(scores, np.where(kept, labels, 0), axis), 0))
    return total / np.sum(kept) if average else (total, np.sum(kept))


def _sum_nll(scores, labels, axis, ignore):
    kept, count = _kept(labels, ignore)
    if kept is None:
        return -ops.sum(label_logp(scores, labels, axis)), count
    each = label_logp(scores, ops.where(kept, labels, 0), axis)
    return ops.sum(ops.where(kept, -each, 0)), count


def _mean_nll(scores, labels, axis, ignore):
    total, count = _sum_nll(scores, labels, axis, *(ignore or (None,)))
    return _over(total, count)


def _dmean_nll(dy, y, scores, labels, axis, ignore):
    kept, count = _kept(labels, *(ignore or (None,)))
    each = -_over(dy, count)
    if kept is None:
        return _dlabel_logp(ops.broadcast_to(each, labels.shape), y, scores, labels, axis)
    return _dlabel_logp(ops.where(kept, each, 0), y, scores, ops.where(kept, labels, 0), axis)


# One node for the loss of every training step: recorded as seven operations it took 5 us of 20.
mean_nll = compound(
    "mean_nll", "scores, labels, axis: axis = -1, ignore: ints = ()", public=False, expand=_mean_nll,
    grad=(_dmean_nll, None),
    reference=lambda scores, labels, axis=-1, ignore=(): _nll_reference(scores, labels, axis, True, *(ignore or (None,))),
    samples=(sample((3, 4), _draw_labels(3, classes=4)), sample((3, 4), _draw_labels(4, classes=3), axis=0),
             sample((4, 3), lambda rng: np.array([2, -1, 0, -1]), ignore=(-1,))),
    doc="The mean of -logp(scores) at the labels, over the instances whose label is not to be ignored.")


_SCORED = (sample((3, 4), _draw_labels(3, classes=4)), sample((3, 4), _draw_labels(4, classes=3), axis=0),
           sample((2, 3, 4), _draw_labels(2, 3, classes=4), average=False),
           sample((4, 3), lambda rng: np.array([2, -1, 0, -1])),
           sample((4, 3), lambda rng: np.array([2, 1, 0, 1]), ignore=1))


@function(reference=_nll_reference, samples=_SCORED)
def nll(scores, labels, axis=-1, average=True, ignore=-1):
    """The negative log-likelihood of integer `labels`, 0 to C-1, under softmax(scores, axis): its mean over instances,
    or with average=False (total, instances). Instances labelled `ignore` do not count; None: all do.

    `scores` has the C classes along `axis`, `labels` the shape of scores without that axis. Raises TypeError for labels
    that are not integers, ValueError where shapes do not match, and IndexError when it runs and a label is out of
    range.

    >>> round(knet.nll(knet.array([[2.0, 0.0], [0.0, 0.0]]), [0, 1]).item(), 4)
    0.41
    """
    labels, axis = _instances("nll", scores, labels, axis)
    if average:
        return mean_nll(scores, labels, axis, () if ignore is None else (ignore,))
    return _sum_nll(scores, labels, axis, ignore)


def _accuracy_reference(scores, labels, axis=-1, average=True, ignore=-1):
    kept = np.asarray(labels) != ignore
    hits = np.sum((np.argmax(scores, axis) == labels) & kept)
    return hits / np.sum(kept) if average else (hits, np.sum(kept))


@function(reference=_accuracy_reference, samples=_SCORED)
def accuracy(scores, labels, axis=-1, average=True, ignore=-1):
    """The share of instances whose largest score (the first, if several tie) is that of the label, or with
    average=False (hits, instances). Shapes, `ignore` and errors as for `nll`.

    >>> knet.accuracy(knet.array([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]]), [0, 1, 1], average=False)[0].item()
    2
    """
    labels, axis = _instances("accuracy", scores, labels, axis)
    kept, count = _kept(labels, ignore)
    hit = ops.argmax(scores, axis) == labels
    hits = ops.sum(hit if kept is None else ops.logical_and(hit, kept))
    return hits / count if average else (hits, count)


@function(reference=lambda scores, labels, axis=-1, ignore=-1:
          1 - _accuracy_reference(scores, labels, axis, True, ignore), samples=_SCORED[:2])
def zeroone(scores, labels, axis=-1, ignore=-1):
    """The share of instances that are not classified right, 1 - accuracy."""
    return 1 - accuracy(scores, labels, axis, ignore=ignore)


# ---- losses of two classes

def _paired(name, scores, labels):
    scores, labels = as_array(scores), as_array(labels)
    if tuple(labels.shape) != tuple(scores.shape):
        raise ValueError(f"[{name}] labels do not match scores: {tuple(labels.shape)} and {tuple(scores.shape)}. "
                         f"Pass one label for each score.")
    return scores, ops.cast(labels, scores.dtype)


def _two_class(reference):
    def value(scores, labels, average=True):
        each = reference(scores, labels)
        return np.mean(each) if average else (np.sum(each), np.size(each))
    return value


@function(samples=(sample((3, 4), _draw_labels(3, 4, classes=2)),
                   sample((5,), _draw_labels(5, classes=2), average=False)),
          reference=_two_class(lambda s, t: -t * np.log(1 / (1 + np.exp(-s))) - (1 - t) * np.log(1 / (1 + np.exp(s)))))
def bce(scores, labels, average=True):
    """The binary cross-entropy of `labels` (0 or 1, or probabilities) under sigm(scores): softplus(s) - label * s.

    Its mean over all scores, or with average=False (total, instances). Raises ValueError unless the shapes are equal.
    """
    scores, labels = _paired("bce", scores, labels)
    return _total(ops.softplus(scores) - labels * scores, average, scores.size)


@function(samples=(sample((3, 4), lambda rng: rng.integers(0, 2, (3, 4)) * 2 - 1),
                   sample((5,), lambda rng: rng.integers(0, 2, 5) * 2 - 1, average=False)),
          reference=_two_class(lambda s, t: np.log(1 + np.exp(-t * s))))
def logistic(scores, labels, average=True):
    """The logistic loss of `labels` (-1 or 1): softplus(-label * s). Shapes and `average` as for `bce`."""
    scores, labels = _paired("logistic", scores, labels)
    return _total(ops.softplus(-labels * scores), average, scores.size)


# ---- dropout

def _dropped(x, p, seed, counter):
    p = ops.cast(p, x.dtype)
    return ops.where(ops.random_uniform(seed, counter, shape=x.shape, dtype=x.dtype) < p, 0, x / (1 - p))


# Linear in x, so its derivative is the same operation with the same seed and counter: the mask is never kept.
dropped = compound(
    "dropped", "x, p, seed, counter", public=False, expand=_dropped,
    grad=(lambda dy, y, x, p, seed, counter: dropped(dy, p, seed, counter), None, None, None),
    reference=lambda x, p, seed, counter: np.where(
        ops.random_uniform.reference(seed, counter, np.shape(x), np.asarray(x).dtype) < p, 0, x / (1 - p)),
    samples=(sample((3, 4), 0.3, 7, 2), sample((50,), 0.8, 7, 1 << 40)),
    doc="x / (1 - p), but 0 where the random number is below p.")


@function(samples=(sample((3, 4), 0.4, drop=False), sample((3, 4), 0, drop=True), sample((3, 4), 1, drop=True)),
          reference=lambda x, p, drop: x * (1 - p) if drop else x)
def dropout(x, p, drop=None, seed=None):
    """x with each element set to 0 with probability p and divided by 1 - p otherwise.

    It drops inside differentiated functions only, so the same model predicts as it is; `drop` (True or False) decides
    otherwise. `p` is from 0 to 1, else ValueError. A `seed` makes the choice repeatable; without one knet's generator
    draws it. Srivastava et al. (2014), in the form that scales while training.

    >>> knet.dropout(knet.ones(4), 0.5).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    if not 0 <= p <= 1:
        raise ValueError(f"[dropout] a probability lies between 0 and 1, not {p}.")
    x = as_array(x)
    if p == 0 or not (engine.depth() > 0 if drop is None else drop):
        return ops.alias(x)
    if p == 1:
        return ops.zeros_like(x)
    return dropped(x, p, *(next_key() if seed is None else (seed, 0)))
