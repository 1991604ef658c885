"""Every operation against its NumPy reference, derived from the entries: types, shapes, layouts, edge values,
derivatives.

A new entry is tested by being there.
"""
import itertools

import numpy as np
import pytest
from sampling import arguments_of, domain_of, draw, draw_integers, samples_of, tupled

import knet
from knet.ops.define import REGISTRY, Op, Sample

INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float64")
# What a function of floats computes integers in. (NumPy divides small integers in float64 and has float16.)
TO_FLOAT = {"bool": "float32", "int8": "float32", "uint8": "float32", "int16": "float32", "uint16": "float32",
            "int32": "float64", "uint32": "float64", "int64": "float64", "uint64": "float64",
            "float32": "float32", "float64": "float64"}
TOLERANCE = {"float32": 1e-5, "float64": 1e-11}

ELEMENTWISE = [e for e in REGISTRY.values() if isinstance(e, Op) and e.kind == "Elementwise" and e.name != "cast"]
OTHERS = [e for e in REGISTRY.values() if not (isinstance(e, Op) and e.kind in ("Elementwise", "Meta"))]
REDUCTIONS = [e for e in OTHERS if isinstance(e, Op) and e.kind == "Reduce"]


def named(*names):
    return [REGISTRY[name] for name in names]


def types_of(entry):
    """The element types that an elementwise operation takes."""
    if entry.rule in ("Float", "FloatTest", "Logical", "Compare", "Where"):
        return ("bool", *INTS, *FLOATS)
    return (*(("bool",) if entry.c_bool else ()), *(INTS if entry.c_int else ()), *(FLOATS if entry.c else ()))


def result_type(entry, dtype):
    if entry.rule in ("Compare", "Logical", "FloatTest"):
        return "bool"
    return TO_FLOAT[dtype] if entry.rule == "Float" else dtype


def make(rng, entry, i, shape, dtype):
    """Input i of an elementwise operation."""
    if entry.rule == "Where" and i == 0:
        return np.asarray(rng.integers(0, 2, shape)).astype(bool)
    if dtype == "bool":
        return np.asarray(rng.integers(min(1, max(0, entry.ints[i][0][0])), 2, shape)).astype(bool)
    if dtype in FLOATS:
        return draw(rng, entry.domain[i], shape).astype(dtype)
    return np.asarray(draw_integers(rng, entry.ints[i], shape, dtype))


def expect(entry, xs, dtype, attrs=None):
    """The reference; a function of floats is given float64, so that it is exact for every type of input."""
    if entry.rule == "Float":
        xs = [x.astype("float64") if isinstance(x, np.ndarray) else x for x in xs]
    return np.asarray(entry.reference(*xs, **(attrs or {})))


def compare(got, expected, dtype, tolerance=None):
    got = got.numpy()
    assert got.shape == expected.shape
    assert got.dtype == dtype, f"result is {got.dtype}, not {dtype}"
    if dtype in TOLERANCE:
        t = TOLERANCE[dtype] if tolerance is None else tolerance
        np.testing.assert_allclose(got, expected.astype(dtype), rtol=t, atol=t)
    else:
        np.testing.assert_array_equal(got, expected)


def by_name(entries):
    return pytest.mark.parametrize("entry", entries, ids=lambda e: e.name)


# ---- elementwise: types, shapes, layouts

@by_name(ELEMENTWISE)
def test_types(entry, rng):
    for dtype in types_of(entry):
        xs = [make(rng, entry, i, (3, 5), dtype) for i in range(entry.n_in)]
        compare(entry.fn(*map(knet.array, xs)), expect(entry, xs, dtype), result_type(entry, dtype))


@by_name(ELEMENTWISE)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (1, 1, 1), (7,), (2, 3, 4), (10007,), (3, 5001)], ids=str)
def test_shapes(entry, shape, rng):
    for dtype in types_of(entry)[-2:]:
        xs = [make(rng, entry, i, shape, dtype) for i in range(entry.n_in)]
        compare(entry.fn(*map(knet.array, xs)), expect(entry, xs, dtype), result_type(entry, dtype))


@by_name([e for e in ELEMENTWISE if e.n_in > 1])
def test_broadcasting(entry, rng):
    dtype = types_of(entry)[-1]
    for shapes in itertools.product([(), (4,), (3, 1), (1, 4), (2, 3, 4), (2, 1, 1)], repeat=entry.n_in):
        xs = [make(rng, entry, i, s, dtype) for i, s in enumerate(shapes)]
        compare(entry.fn(*map(knet.array, xs)), expect(entry, xs, dtype), result_type(entry, dtype))


@by_name(ELEMENTWISE)
def test_layouts(entry, rng):
    """Slices, steps, transposes and broadcasts are read where they lie."""
    dtype = types_of(entry)[-1]
    views = (lambda x: x.T, lambda x: x[::2, 1:], lambda x: x[::-1, ::-3], lambda x: x[1], lambda x: x[:, 2:3])
    for view in views:
        xs = [make(rng, entry, i, (6, 6), dtype) for i in range(entry.n_in)]
        compare(entry.fn(*(view(knet.array(x)) for x in xs)), expect(entry, [view(x) for x in xs], dtype),
                result_type(entry, dtype))
        compare(entry.fn(*(knet.array(view(x)) for x in xs)), expect(entry, [view(x) for x in xs], dtype),
                result_type(entry, dtype))


# ---- elementwise: edge values

FLOAT_EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, 20.0, -20.0, 1e-8, -1e-8, 1e-30, 1e30, -1e30,
               np.inf, -np.inf, np.nan)
# References that raise at poles: these stay within their domain.
INSIDE_ONLY = {"erfinv", "lgamma", "gamma", "digamma", "trigamma", "polygamma"}


@by_name([e for e in ELEMENTWISE if e.c and e.rule != "Where"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_float_edges(entry, dtype):
    edges = np.array(FLOAT_EDGES, dtype)
    if entry.name in INSIDE_ONLY:
        inside = domain_of(entry, len(entry.inputs) - 1)
        edges = np.concatenate([np.linspace(lo, hi, 9) for lo, hi in inside]).astype(dtype)
    xs = [x.ravel() for x in np.meshgrid(*[edges] * entry.n_in, indexing="ij")]
    expected = np.asarray(entry.reference(*xs))
    if entry.rule == "FloatTest" or entry.rule == "Compare":
        np.testing.assert_array_equal(entry.fn(*map(knet.array, xs)).numpy(), expected)
        return
    if entry.name == "sinc":  # NumPy rounds pi x: in float32 it is off for 1 already, in float64 by turns for 1e30
        expected = np.where(np.abs(xs[0]) == 1e30, 0, np.sinc(xs[0].astype("float64")))
    if entry.name in ("gelu", "swish", "mish"):  # infinity times 0, but the functions have a limit
        expected[xs[0] == -np.inf] = 0
    if entry.name in ("remainder", "floor_divide", "fmod"):  # the quotient of 1e30 and 3 has no fraction left
        keep = ~(np.abs(xs[0] / xs[1]) > 1e6) | ~np.isfinite(xs[0] / xs[1])
        xs, expected = [x[keep] for x in xs], expected[keep]
    got = entry.fn(*map(knet.array, xs)).numpy()
    t = TOLERANCE[dtype]
    for k in range(len(expected)):
        args = tuple(x[k] for x in xs)
        assert np.allclose(got[k], expected[k].astype(dtype), rtol=t, atol=t * 1e-3, equal_nan=True), \
            f"{entry.name}{args} = {got[k]}, not {expected[k]}"


@by_name([e for e in ELEMENTWISE if e.c_int and e.rule not in ("Where",) and e.name not in ("power", "gcd", "lcm")])
@pytest.mark.parametrize("dtype", INTS)
def test_integer_edges(entry, dtype):
    info = np.iinfo(dtype)
    edges = {info.min, info.min + 1, 0, 1, 2, 7, info.max - 1, info.max, *((-1, -2, -7) if info.min else ())}
    edges = np.array(sorted(edges), dtype)
    xs = [x.ravel() for x in np.meshgrid(*[edges] * entry.n_in, indexing="ij")]
    expected = entry.reference(*xs)
    got = entry.fn(*map(knet.array, xs)).numpy()
    for k in range(len(expected)):
        assert got[k] == expected[k], f"{entry.name}{tuple(x[k] for x in xs)} = {got[k]}, not {expected[k]}"


# ---- numbers, promotion, NumPy's own functions

@by_name([e for e in ELEMENTWISE if e.n_in > 1 and e.c and e.rule in ("Same", "Float")])
def test_python_numbers_take_the_type_of_the_array(entry, rng):
    for dtype in FLOATS:
        xs = [make(rng, entry, i, (3,), dtype) for i in range(entry.n_in)]
        for number in range(entry.n_in):
            mixed = [float(x[0]) if i == number else x for i, x in enumerate(xs)]
            got = entry.fn(*(x if isinstance(x, float) else knet.array(x) for x in mixed))
            compare(got, expect(entry, mixed, dtype), dtype)


@by_name([e for e in ELEMENTWISE if e.n_in == 2 and e.rule in ("Same", "Compare", "IntBits") and e.numpy])
def test_promotion(entry, rng):
    for s, t in itertools.combinations(types_of(entry), 2):
        if entry.rule == "IntBits" and np.result_type(s, t).kind == "f":
            continue
        xs = [make(rng, entry, 0, (3,), s), make(rng, entry, 1, (3,), t)]
        expected = np.asarray(entry.reference(*xs))
        compare(entry.fn(*map(knet.array, xs)), expected, expected.dtype.name, 1e-6)


@by_name([e for e in ELEMENTWISE if e.numpy])
def test_numpy_functions(entry, rng):
    """NumPy's function of the same meaning, called on our array, is ours."""
    dtype = types_of(entry)[-1]
    xs = [make(rng, entry, i, (3,), dtype) for i in range(entry.n_in)]
    for name in entry.numpy:
        got = getattr(np, name)(*map(knet.array, xs))
        assert isinstance(got, knet.KnetArray)
        compare(got, expect(entry, xs, dtype), result_type(entry, dtype))


@by_name([e for e in REGISTRY.values() if e.public and e.aliases])
def test_aliases(entry):
    for alias in entry.aliases:
        assert getattr(knet, alias) is getattr(knet, entry.name)


# ---- everything else, by the samples of the entries

def sampled(entries):
    found = [pytest.param(e, s, id=f"{e.name}-{k}") for e in entries if e.reference is not None
             for k, s in enumerate(samples_of(e, Sample))]
    return pytest.mark.parametrize("entry, sample", found)


def wrapped(xs):
    return [knet.array(x) if isinstance(x, np.ndarray) else x for x in xs]


def compare_all(got, expected, dtype):
    got, expected = tupled(got), tupled(expected)
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        g, e = np.asarray(g.numpy() if isinstance(g, knet.KnetArray) else g), np.asarray(e)
        assert g.shape == e.shape
        assert (g.dtype.kind == "f") == (e.dtype.kind == "f") or e.ndim == 0, f"{g.dtype} for {e.dtype}"
        np.testing.assert_allclose(g, e, rtol=TOLERANCE.get(dtype, 0), atol=TOLERANCE.get(dtype, 0))


MAKES_ITS_OWN_TYPE = {"accuracy", "zeroone", "float_power", "one_hot"}


@sampled(OTHERS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_values(entry, sample, dtype, rng):
    xs, attrs = arguments_of(entry, sample, rng)
    xs = [x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype == "float64" else x for x in xs]
    exact = [x.astype("float64") if isinstance(x, np.ndarray) and x.dtype == "float32" else x for x in xs]
    got = entry.fn(*wrapped(xs), **attrs)
    # The mask of dropout is drawn in the type of x.
    compare_all(got, entry.reference(*(xs if entry.name == "dropped" else exact), **attrs), attrs.get("dtype", dtype))
    for g in tupled(got):
        if entry.name not in MAKES_ITS_OWN_TYPE and isinstance(g, knet.KnetArray) and "dtype" not in attrs:
            arrays = [x for x in (*xs, *attrs.values()) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
            if str(g.dtype) in FLOATS and arrays:
                assert g.dtype == np.result_type(*arrays), f"{dtype} became {g.dtype}"


@sampled([e for e in OTHERS if e.numpy])
def test_numpy_functions_of_arrays(entry, sample, rng):
    """np.sum(x, axis=0) and the like, on our arrays, are ours."""
    xs, attrs = arguments_of(entry, sample, rng)
    for name in entry.numpy:
        fn = np
        for part in name.split("."):
            fn = getattr(fn, part)
        try:
            expected = fn(*xs, **attrs)
        except (TypeError, ValueError):  # the sample says more than NumPy's function takes, or says it otherwise
            continue
        got = fn(*wrapped(xs), **attrs)
        assert all(isinstance(g, knet.KnetArray) for g in tupled(got))
        compare_all(got, expected, "float64")


@sampled(REDUCTIONS)
@pytest.mark.parametrize("dtype", ("bool", *INTS))
def test_reductions_of_integers(entry, sample, dtype, rng):
    if any(callable(x) for x in sample.inputs):
        return
    xs = [rng.integers(0, 2 if dtype == "bool" else 5, s).astype(dtype) for s in sample.inputs]
    expected = np.asarray(entry.reference(*xs, **sample.attrs))
    compare(entry.fn(*wrapped(xs), **sample.attrs), expected, expected.dtype.name)


@by_name([*REDUCTIONS, *named("mean", "var", "logsumexp", "cumsum", "cumprod")])
@pytest.mark.parametrize("shape, axis", [((1000003,), 0), ((3, 70001), 1), ((70001, 3), 0), ((17, 33, 65), 1)], ids=str)
def test_large_reductions(entry, shape, axis, rng):
    x = rng.uniform(0.5, 1.5, shape) if "prod" not in entry.name else rng.uniform(0.999, 1.001, shape)
    compare_all(entry.fn(knet.array(x), axis=axis), entry.reference(x, axis=axis), "float64")


@by_name([*REDUCTIONS, *named("mean", "var", "cumsum", "cumprod", "median")])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_reductions_of_nan_and_infinity(entry, bad, rng):
    x = rng.standard_normal((4, 37))
    x[1, 20] = x[3, 0] = bad
    for axis in (0, 1):
        compare_all(entry.fn(knet.array(x), axis=axis), entry.reference(x, axis=axis), "float64")


@by_name(REDUCTIONS)
def test_reductions_of_layouts(entry, rng):
    x = rng.standard_normal((6, 8))
    for view in (lambda x: x.T, lambda x: x[::2, 1:], lambda x: x[::-1, ::-3]):
        for axis in (0, 1):
            compare_all(entry.fn(view(knet.array(x)), axis=axis), entry.reference(view(x), axis=axis), "float64")


# ---- derivatives

def is_float(x):
    return getattr(x, "dtype", None) is not None and str(x.dtype) in FLOATS


def check_derivatives(fn, arguments, rng, tolerance=1e-6):
    """knet.grad of a random projection against finite differences along random directions; then the same for that
    gradient."""
    xs = wrapped(arguments)
    tracked = tuple(i for i, x in enumerate(arguments) if is_float(x))
    weights = [knet.array(rng.standard_normal(y.shape)) for y in tupled(fn(*xs)) if is_float(y)]
    if not tracked or not weights:
        return

    def value(*a):
        ys = [y for y in tupled(fn(*a)) if is_float(y)]
        return sum(((y * w).sum() for y, w in zip(ys, weights)), 0.0)

    directions = [rng.standard_normal(np.shape(arguments[i])) for i in tracked]

    def along(*a):
        return sum(((g * d).sum() for g, d in zip(knet.grad(value, tracked)(*a), map(knet.array, directions))), 0.0)

    def slope(f, h=2e-5):
        def at(t):
            moved = list(xs)
            for i, d in zip(tracked, directions):
                moved[i] = knet.array(arguments[i] + t * d)
            return float(f(*moved))
        return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)

    first = float(along(*xs))
    assert first == pytest.approx(slope(value), rel=tolerance, abs=tolerance)
    for g, i in zip(knet.grad(value, tracked)(*xs), tracked):
        assert g.shape == np.shape(arguments[i]) and str(g.dtype) == "float64"
    second = sum(float((g * knet.array(d)).sum()) for g, d in zip(knet.grad(along, tracked)(*xs), directions))
    assert second == pytest.approx(slope(along), rel=20 * tolerance, abs=20 * tolerance)


@by_name([e for e in ELEMENTWISE if e.grad is not None])
def test_derivatives_elementwise(entry, rng):
    n = entry.n_in
    for shapes in (((3, 4),) * n, ((),) * n, ((3, 1), (4,), (2, 1, 1))[:n]):
        check_derivatives(entry.fn, [make(rng, entry, i, s, "float64") for i, s in enumerate(shapes)], rng)


@sampled([e for e in OTHERS if not isinstance(e, Op) or e.grad is not None or e.kind == "Compound"])
def test_derivatives(entry, sample, rng):
    xs, attrs = arguments_of(entry, sample, rng)
    check_derivatives(lambda *a: entry.fn(*a, **attrs), xs, rng)


@by_name([e for e in ELEMENTWISE if e.grad is not None and e.rule != "Where"])
def test_gradients_in_float32(entry, rng):
    """A gradient has the type of its parameter, also where numbers of other types are mixed in."""
    xs = [make(rng, entry, i, (3,), "float32") for i in range(entry.n_in)]
    gradient = knet.grad(lambda *a: entry.fn(*a).sum(), tuple(range(entry.n_in)))
    got = gradient(*map(knet.array, xs))
    exact = gradient(*(knet.array(x.astype("float64")) for x in xs))
    for g, e in zip(got, exact):
        assert str(g.dtype) == "float32"
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-4, atol=2e-5)


# ---- what entries promise in words

def test_labels_out_of_range_are_refused():
    scores = knet.array(np.zeros((2, 3)))
    for labels in ([0, 3], [0, -2]):
        with pytest.raises(IndexError):
            float(knet.nll(scores, knet.array(labels)))
    assert float(knet.nll(scores, knet.array([0, -1]))) == pytest.approx(np.log(3))
    with pytest.raises(ValueError, match="labels do not match scores"):
        knet.nll(scores, knet.array([0, 1, 2]))
    with pytest.raises(TypeError, match="class numbers"):
        knet.nll(scores, knet.array([0.0, 1.0]))


def test_dropout_drops_inside_differentiated_functions_only():
    x = knet.ones((1000,))
    assert (knet.dropout(x, 0.5).numpy() == 1).all()
    g = knet.grad(lambda x: knet.dropout(x, 0.25).sum())(x).numpy()
    assert set(np.unique(g)) == {0, np.float32(1 / 0.75)} and 150 < (g == 0).sum() < 350
    kept = knet.dropout(x, 0.25, drop=True, seed=3).numpy()
    np.testing.assert_array_equal(kept, knet.dropout(x, 0.25, drop=True, seed=3).numpy())
    assert (knet.dropout(x, 1, drop=True).numpy() == 0).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        knet.dropout(x, 1.5)


def test_the_gradient_of_dropout_has_the_mask_of_its_result():
    def loss(x):
        y = knet.dropout(x, 0.5)
        return (y * y).sum() / 2, y
    g, y = knet.grad(loss, has_aux=True)(knet.ones((100,)))
    np.testing.assert_array_equal(g.numpy(), 2 * y.numpy())
