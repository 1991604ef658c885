"""Arguments for the tests that are derived from the entries (test_rules, test_ops)."""
import numpy as np


def is_op(entry):
    return hasattr(entry, "kind")


def samples_of(entry, Sample):
    """The calls of an entry to test: those that it states, or some shapes for an elementwise operation."""
    if entry.samples or not is_op(entry) or entry.kind != "Elementwise":
        return entry.samples
    n = len(entry.inputs)
    attrs = {"dtype": "float64"} if entry.name == "cast" else {}
    shapes = [((3, 4),) * n, ((),) * n]
    if n > 1:
        shapes.append(((3, 1), (4,), (2, 1, 1))[:n])
    return [Sample(s, attrs) for s in shapes]


def draw(rng, intervals, shape):
    """Random numbers from a union of intervals."""
    lo, hi = np.array(intervals).T
    which = rng.integers(0, len(lo), shape)
    return np.asarray(rng.uniform(lo[which], hi[which]))


def draw_integers(rng, intervals, shape, dtype):
    """Random integers from an interval, cut to what the type holds."""
    (lo, hi), = intervals
    info = np.iinfo(dtype)
    return rng.integers(max(lo, info.min), min(hi, info.max), shape, endpoint=True).astype(dtype)


def domain_of(entry, i):
    """Intervals for input i."""
    if is_op(entry):
        return entry.domain[min(i, len(entry.domain) - 1)]
    d = entry.domain
    return d[0] if isinstance(d, list) else (d,)


def arguments_of(entry, sample, rng):
    """Inputs and attributes of a sample, drawn."""
    def make(i, given):
        if callable(given):
            return given(rng)
        return draw(rng, domain_of(entry, i), given) if isinstance(given, tuple) else given
    return ([make(i, x) for i, x in enumerate(sample.inputs)],
            {k: v(rng) if callable(v) else v for k, v in sample.attrs.items()})


def tupled(y):
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)
