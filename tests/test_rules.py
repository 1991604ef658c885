"""The entries themselves, without the engine: values of expansions and functions against NumPy, derivatives to second
order against finite differences.

Operations are run by their NumPy references on a small recording array; its backward pass asks the same `derive` as the
engine does. So a wrong rule is found here, in Python, before anything is compiled.
"""
import importlib.util
import itertools
import math
import numbers
import pathlib
import sys

import numpy as np
import pytest
from sampling import arguments_of, samples_of, tupled

HERE = pathlib.Path(__file__).resolve().parent.parent / "src" / "knet" / "ops"


def load_entries():
    """The entries as a package of their own, so that these tests need no native module and touch no other test's."""
    spec = importlib.util.spec_from_file_location("rules_ops", HERE / "__init__.py",
                                                  submodule_search_locations=[str(HERE)])
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)
    return package


entries = load_entries()
define = sys.modules["rules_ops.define"]
ops = define.ops


# ---- an array that records, and its backward pass

class Array:
    __array_ufunc__ = None
    count = itertools.count()

    def __init__(self, value, node=None):
        self.value, self.node, self.id = value, node, next(Array.count)

    value_of = staticmethod(lambda x: x.value if isinstance(x, Array) else x)
    shape = property(lambda self: np.shape(self.value))
    ndim = property(lambda self: np.ndim(self.value))
    size = property(lambda self: np.size(self.value))
    dtype = property(lambda self: np.asarray(self.value).dtype)
    T = property(lambda self: ops.transpose(self, tuple(range(self.ndim))[::-1]))
    __hash__ = object.__hash__

    def __len__(self):
        return self.shape[0]


for _name, _op in {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
        "mod": "remainder", "pow": "power", "matmul": "matmul", "lt": "less", "le": "less_equal", "gt": "greater",
        "ge": "greater_equal", "eq": "equal", "ne": "not_equal", "lshift": "left_shift", "rshift": "right_shift",
        "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}.items():
    setattr(Array, f"__{_name}__", lambda a, b, op=_op: getattr(ops, op)(a, b))
    setattr(Array, f"__r{_name}__", lambda a, b, op=_op: getattr(ops, op)(b, a))
for _name, _op in dict(neg="negative", abs="absolute", invert="invert", pos="positive").items():
    setattr(Array, f"__{_name}__", lambda a, op=_op: getattr(ops, op)(a))


def normalised(attr, value, x):
    ndim = np.ndim(x)
    if attr.kind == "axes":
        value = range(ndim) if value is None else (value,) if isinstance(value, numbers.Integral) else value
        return tuple(sorted(a % ndim for a in value))
    if attr.kind == "axis":
        return value % ndim
    if attr.kind in ("ints", "shape"):
        value = (value,) if isinstance(value, numbers.Integral) else tuple(map(int, value))
        if attr.kind == "shape" and -1 in value:
            value = np.reshape(x, value).shape
        return value
    if attr.kind == "dtype":
        return None if value is None else str(value)
    return value


def record(op, *args, **kwargs):
    """What the native OpFunction does: bind inputs and attributes, normalise, make a node."""
    fixed = op.inputs[:-1] if op.variadic else op.inputs
    xs = list(args) if op.variadic else list(args[:len(fixed)])
    for name in fixed[len(xs):]:
        xs.append(kwargs.pop(name) if name in kwargs else op.defaults[name])
    named = dict(zip([a.name for a in op.attrs], () if op.variadic else args[len(fixed):]), **kwargs)
    xs = [x if isinstance(x, (Array, numbers.Number)) else Array(np.asarray(x)) for x in xs]
    attrs = {}
    for attr in op.attrs:
        value = named.pop(attr.name, attr.default)
        assert value is not define.REQUIRED, f"{op.name} needs {attr.name}"
        if attr.kind == "axis" and value is None:
            xs[0], value = ops.reshape(xs[0], (xs[0].size,)), 0
        attrs[attr.name] = normalised(attr, value, Array.value_of(xs[0]) if xs else None)
    assert not named, f"{op.name} has no {named}"
    assert define.decode(op, define.encode(op, attrs)) == attrs
    values = [Array.value_of(x) for x in xs]
    if op.kind == "Compound" and (op.reference is None or op.grad is None):
        return op.expand(*xs, **attrs)
    if op.reference is None:
        pytest.skip(f"{op.name} has no reference")
    y = op.reference(*values, **attrs)
    node = (op, xs, attrs, [])
    results = [Array(v, (*node, k)) for k, v in enumerate(y if op.n_out > 1 else (y,))]
    node[3].extend(results)
    return tuple(results) if op.n_out > 1 else results[0]


for _entry in entries.REGISTRY.values():
    if isinstance(_entry, define.Op):
        _entry.fn = lambda *a, op=_entry, **k: record(op, *a, **k)


def is_float(x):
    return np.asarray(Array.value_of(x)).dtype.kind == "f"


def unbroadcast(dy, shape):
    if dy.shape == shape:
        return dy
    new = dy.ndim - len(shape)
    axes = (*range(new), *(new + i for i, n in enumerate(shape) if n == 1))
    return ops.reshape(ops.sum(dy, axes), shape)


def backward(seeds, wrt):
    """Gradients of sum(dy * y) over pairs (y, dy), with respect to the arrays `wrt`, as recorded arrays."""
    order, reached, stack = [], set(), [y for y, _ in seeds]
    while stack:
        x = stack.pop()
        if isinstance(x, Array) and x.id not in reached:
            reached.add(x.id)
            order.append(x)
            if x.node:
                stack += [*x.node[1], *x.node[3]]
    depends = {x.id for x in wrt}
    for x in sorted(order, key=lambda x: x.id):
        if x.node and any(isinstance(i, Array) and i.id in depends for i in x.node[1]):
            depends.add(x.id)
    grads, done = {}, set()

    def accumulate(x, g):
        assert isinstance(g, (Array, numbers.Number)), g
        g = g if isinstance(g, Array) else Array(np.asarray(float(g)))
        assert g.dtype == x.dtype or g.ndim == 0, f"gradient of type {g.dtype} for {x.dtype}"
        grads[x.id] = grads[x.id] + g if x.id in grads else g

    for y, dy in seeds:
        accumulate(y, dy)
    for x in sorted(order, key=lambda x: -x.id):
        if not x.node or x.id not in depends or id(x.node[3]) in done:
            continue
        op, xs, attrs, ys, _ = x.node
        done.add(id(ys))
        dys = [grads.get(y.id) for y in ys]
        if all(dy is None for dy in dys):
            continue
        needs = [isinstance(i, Array) and i.id in depends and is_float(i) for i in xs]
        assert op.grad is not None or op.kind != "Compound"
        for i, g in zip(xs, define.derive(op, dys, ys, xs, attrs, needs), strict=True):
            if g is not None:
                if op.kind == "Elementwise":
                    g = g if isinstance(g, Array) else Array(np.asarray(float(g)))
                    if g.shape != i.shape:  # a rule sees no shapes: its result may be smaller than y, or be that of y
                        g = g if g.shape == ys[0].shape else ops.broadcast_to(g, ys[0].shape)
                        g = unbroadcast(g, i.shape)
                else:
                    assert g.shape == i.shape, f"{op.name}: gradient of shape {g.shape} for {i.shape}"
                accumulate(i, g)
    return [grads.get(x.id, Array(np.zeros(x.shape))) for x in wrt]


# ---- the calls to test

def cases(wanted):
    return list(_cases(wanted))


def _cases(wanted):
    for entry in entries.REGISTRY.values():
        if (getattr(entry, "kind", "") not in ("Meta", "Random") and entry.reference is not None
                and entry.name != "where" and wanted(entry)):
            for k, sample in enumerate(samples_of(entry, define.Sample)):
                yield pytest.param(entry, sample, id=f"{entry.name}-{k}")


def project(fn, xs, ws):
    """Sum of w * y over the float results."""
    ys = [y for y in tupled(fn(*xs)) if is_float(y)]
    total = 0.0
    for y, w in zip(ys, ws, strict=True):
        total = total + ops.sum(ops.multiply(y, w))
    return total


def slope(f, xs, i, direction, h=2e-5):
    def at(t):
        moved = [Array(Array.value_of(x)) if isinstance(x, Array) else x for x in xs]
        moved[i] = Array(xs[i].value + t * direction)
        return float(Array.value_of(f(*moved)))
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def check_derivatives(fn, arguments, rng, order=2, tolerance=1e-6):
    """First derivatives of a random projection against finite differences, then the same for these derivatives."""
    xs = [Array(np.asarray(x)) if isinstance(x, np.ndarray) else x for x in arguments]
    tracked = [i for i, x in enumerate(xs) if isinstance(x, Array) and is_float(x)]
    ys = [y for y in tupled(fn(*xs)) if is_float(y)]
    if not tracked or not ys:
        return
    ws = [Array(rng.standard_normal(y.shape)) for y in ys]
    everything = [*xs, *ws]

    def value(*a):
        return project(fn, a[:len(xs)], a[len(xs):])

    def gradient(*a):
        total = project(fn, a[:len(xs)], a[len(xs):])
        return backward([(total, Array(np.asarray(1.0)))], [a[i] for i in tracked])

    directions = {i: rng.standard_normal(xs[i].shape) for i in tracked}
    for i, g in zip(tracked, gradient(*everything)):
        expected = slope(value, everything, i, directions[i])
        got = float(np.sum(g.value * directions[i]))
        assert got == pytest.approx(expected, rel=tolerance, abs=tolerance), f"derivative {i}"
    if order > 1:
        def along(*a):
            total = 0.0
            for i, g in zip(tracked, gradient(*a)):
                total = total + ops.sum(g * directions[i])
            return total

        wrt = [*tracked, *range(len(xs), len(everything))]
        second = backward([(along(*everything), Array(np.asarray(1.0)))], [everything[i] for i in wrt])
        for i, g in zip(wrt, second):
            direction = rng.standard_normal(everything[i].shape)
            expected = slope(along, everything, i, direction)
            got = float(np.sum(g.value * direction))
            assert got == pytest.approx(expected, rel=20 * tolerance, abs=20 * tolerance), f"second derivative {i}"


def caller(entry, attrs):
    fn = entry if isinstance(entry, define.Op) else entry.fn
    return lambda *xs: fn(*xs, **attrs)


@pytest.mark.parametrize("entry, sample", cases(
    lambda e: not isinstance(e, define.Op) or e.grad is not None or e.kind == "Compound"))
def test_derivatives(entry, sample):
    rng = np.random.default_rng(1)
    arguments, attrs = arguments_of(entry, sample, rng)
    check_derivatives(caller(entry, attrs), arguments, rng)


@pytest.mark.parametrize("entry, sample", cases(lambda e: not isinstance(e, define.Op) or e.kind == "Compound"))
def test_values(entry, sample):
    """Expansions and functions are what their references say."""
    rng = np.random.default_rng(2)
    arguments, attrs = arguments_of(entry, sample, rng)
    wrapped = [Array(x) if isinstance(x, np.ndarray) else x for x in arguments]
    if isinstance(entry, define.Op):
        given = {a.name: normalised(a, attrs.get(a.name, a.default), arguments[0]) for a in entry.attrs}
        for name in entry.inputs[len(wrapped):]:
            wrapped.append(entry.defaults[name])
        got = entry.expand(*wrapped, **given)
    else:
        got = entry.fn(*wrapped, **attrs)
    expected = entry.reference(*arguments, **attrs)
    for g, e in zip(tupled(got), tupled(expected), strict=True):
        assert np.shape(Array.value_of(g)) == np.shape(e)
        np.testing.assert_allclose(Array.value_of(g), e, rtol=1e-12, atol=1e-12)


def test_where():
    rng = np.random.default_rng(3)
    c = rng.integers(0, 2, (3, 4)).astype(bool)
    check_derivatives(lambda a, b: ops.where(c, a, b), [rng.standard_normal((3, 4)), rng.standard_normal(4)], rng)


# ---- conventions at kinks and poles

def derivatives(fn, x, n=1):
    """Values of the derivatives of order 1 to n at x."""
    x = Array(np.asarray(x, float))
    y, found = fn(x), []
    for _ in range(n):
        y, = backward([(y, Array(np.ones(y.shape)))], [x])
        y = y if y.shape == x.shape else ops.broadcast_to(y, x.shape)
        found.append(y.value)
    return found if n > 1 else found[0]


@pytest.mark.parametrize("fn, x, expected", [
    (lambda x: ops.relu(x), [0.0, -1.0, 1.0], [0, 0, 1]),
    (lambda x: ops.absolute(x), [0.0, -1.0], [0, -1]),
    (lambda x: ops.maximum(x, 0), [0.0, -1.0, 1.0], [0.5, 0, 1]),
    (lambda x: ops.maximum(x, x), [0.0, 3.0], [1, 1]),
    (lambda x: ops.clip(x, -1, 1), [-1.0, 1.0, 2.0], [1, 1, 0]),
    (lambda x: ops.power(x, 0), [0.0, -2.0, 3.0], [0, 0, 0]),
    (lambda x: ops.power(x, 1), [0.0, -2.0], [1, 1]),
    (lambda x: ops.power(x, 2), [0.0, -2.0], [0, -4]),
    (lambda x: ops.power(x, 3), [0.0, -2.0], [0, 12]),
    (lambda x: ops.power(2.0, x), [0.0, 1.0], [math.log(2), 2 * math.log(2)]),
    (lambda x: ops.power(0.0, x), [0.0, 1.0], [0, 0]),
    (lambda x: ops.hypot(x, 0), [0.0, 2.0], [0, 1]),
    (lambda x: ops.norm(x), [0.0, 0.0], [0, 0]),
    (lambda x: ops.norm(x, 3), [0.0, 0.0], [0, 0]),
    (lambda x: ops.norm(x, 1), [0.0, -2.0], [0, -1]),
    (lambda x: ops.norm(x, math.inf), [1.0, -3.0, 3.0], [0, -0.5, 0.5]),
    (lambda x: ops.std(x), [2.0, 2.0], [0, 0]),
    (lambda x: ops.max(x), [1.0, 3.0, 3.0], [0, 0.5, 0.5]),
    (lambda x: ops.min(x), [1.0, 3.0, 1.0], [0.5, 0, 0.5]),
    (lambda x: ops.prod(x), [2.0, 0.0, 3.0], [0, 6, 0]),
    (lambda x: ops.prod(x), [0.0, 0.0, 3.0], [0, 0, 0]),
    (lambda x: ops.sum(ops.cumprod(x)), [2.0, 0.0, 3.0], [1, 8, 0]),
    (lambda x: ops.logsumexp(x), [-math.inf, 0.0], [0, 1]),
    (lambda x: ops.sinc(x), [0.0], [0]),
    (lambda x: ops.floor(x), [0.5], [0]),
])
def test_conventions(fn, x, expected):
    np.testing.assert_allclose(derivatives(fn, x), expected, rtol=1e-12, atol=1e-15)


def test_high_orders():
    np.testing.assert_allclose(derivatives(lambda x: ops.sin(x), [0.7], 9)[8], np.cos([0.7]))
    np.testing.assert_allclose([d[0] for d in derivatives(lambda x: ops.sinc(x), [0.0], 4)],
                               [0, -np.pi**2 / 3, 0, np.pi**4 / 5], atol=1e-12)
    np.testing.assert_allclose([d[0] for d in derivatives(lambda x: ops.power(x, 3), [0.0], 4)], [0, 0, 6, 0])
    np.testing.assert_allclose([d[0] for d in derivatives(lambda x: ops.tanh(x), [0.0], 5)], [1, 0, -2, 0, 16],
                               atol=1e-12)


def test_mixed_derivative_of_power():
    """d/da d/db a**b at b == 0 is 1/a."""
    a, b = Array(np.asarray(3.0)), Array(np.asarray(0.0))
    da, = backward([(ops.power(a, b), Array(np.asarray(1.0)))], [a])
    dab, = backward([(da, Array(np.asarray(1.0)))], [b])
    assert dab.value == pytest.approx(1 / 3)


# ---- the declarations

def test_declarations():
    for entry in entries.REGISTRY.values():
        if isinstance(entry, define.Op) and entry.kind != "Meta":
            assert entry.doc.rstrip(")").endswith("."), entry.name
            if entry.kind == "Elementwise" and entry.name != "cast":
                assert entry.c or entry.c_int or entry.c_bool, entry.name
        elif entry.public and not isinstance(entry, define.Op):
            assert entry.doc, entry.name
        for name in entry.numpy:
            assert hasattr(np, name) or name.startswith("linalg."), f"{entry.name}: NumPy has no {name}"


def test_generated_tables_are_stable(tmp_path):
    import subprocess
    def generate():
        subprocess.run([sys.executable, HERE / "generate.py", tmp_path], check=True)
        return {p.name: (p.read_text(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    first = generate()
    assert set(first) == {"ops.inc", "tile_ops.inc"}
    assert generate() == first
    assert "KNET_OP(add, Elementwise, 2, 1, kDifferentiable | kBoolOk | kCommutative, Same)" in first["ops.inc"][0]
    assert "KNET_TILE(add, 2, Same, (a + b), (a + b), (a || b))" in first["tile_ops.inc"][0]
