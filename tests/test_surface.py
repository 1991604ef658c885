"""What a newcomer who knows NumPy and PyTorch tries first: every operator, function and promise of the surface."""
import copy
import itertools
import math
import operator
import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from arrays import DTYPES

import knet
from knet import grad, gradcheck


def make(rng, dtype, shape):
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype[0] == "u":
        return rng.integers(0, 6, shape).astype(dtype)
    if dtype[0] == "i":
        return rng.integers(-5, 6, shape).astype(dtype)
    return rng.uniform(-3, 3, shape).astype(dtype)


def result(f, *xs):
    """What f gives, or None if it raises, now or when its values are needed."""
    try:
        y = f(*xs)
        return tuple(np.asarray(v) for v in y) if isinstance(y, tuple) else (np.asarray(y),)
    except (TypeError, ValueError, OverflowError):
        return None


def agree(got, expected, floats_may_be_narrower=False):
    for g, e in zip(got, expected, strict=True):
        narrower = floats_may_be_narrower and (g.dtype, e.dtype) == (np.float32, np.float64)
        assert g.dtype == e.dtype or narrower
        np.testing.assert_allclose(g, e, rtol=2e-6, atol=1e-6)


# ---- operators

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
          operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift, operator.eq, operator.ne,
          operator.lt, operator.le, operator.gt, operator.ge, operator.matmul, divmod]
IN_PLACE = [operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod,
            operator.ipow, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift,
            operator.imatmul]


def ours_alone(op, a, b):
    """Where we differ on purpose: integer powers with negative exponents in arrays are cut, not refused; bool has no
    arithmetic of its own."""
    name = op.__name__.removeprefix("i")
    negative = name == "pow" and np.asarray(a).dtype.kind in "biu" and np.any(np.asarray(b) < 0)
    return negative or (name in ("pow", "floordiv", "mod", "divmod", "lshift", "rshift", "matmul")
                        and np.asarray(a).dtype == bool and np.asarray(b).dtype == bool)


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
def test_operators_of_all_types(op, rng):
    for d, e in itertools.product(DTYPES, DTYPES):
        a, b = make(rng, d, (3, 3)), make(rng, e, (3, 3))
        if ours_alone(op, a, b):
            continue
        expected = result(op, a, b)
        for x, y in ((knet.array(a), knet.array(b)), (a, knet.array(b)), (knet.array(a), b)):
            got = result(op, x, y)
            assert (got is None) == (expected is None), (d, e)
            if got is not None:
                agree(got, expected, op is operator.truediv)


@pytest.mark.parametrize("op", IN_PLACE, ids=lambda op: op.__name__)
def test_in_place_operators_of_all_types(op, rng):
    for d, e in itertools.product(DTYPES, DTYPES):
        a, b = make(rng, d, (3, 3)), make(rng, e, (3, 3))
        if ours_alone(op, a, b):
            continue
        x = knet.array(a)
        alias, other = x, x.copy()
        got, expected = result(op, x, knet.array(b)), result(op, a.copy(), b)
        assert (got is None) == (expected is None), (d, e)
        if got is not None:
            agree(got, expected)
            np.testing.assert_array_equal(alias.numpy(), got[0])
        np.testing.assert_array_equal(other.numpy(), a)


@pytest.mark.parametrize("op", [op for op in BINARY if op is not operator.matmul], ids=lambda op: op.__name__)
def test_operators_with_python_numbers(op, rng):
    for d, number in itertools.product(DTYPES, (True, 2, -3, 0, 2.5, -1.5)):
        a = make(rng, d, (2, 3))
        for x, y in ((a, number), (number, a)):
            if ours_alone(op, x, y) or (op is operator.pow and d == "bool"):
                continue
            with np.errstate(all="ignore"):
                expected = result(op, x, y)
            got = result(op, *(knet.array(v) if v is a else v for v in (x, y)))
            assert (got is None) == (expected is None), (d, number)
            if got is not None:
                agree(got, expected, op is operator.truediv)


def test_integers_are_divided_by_any_number():
    x = knet.array(np.array([6, 9], "uint8"))
    np.testing.assert_allclose((x / -3).numpy(), [-2, -3])
    np.testing.assert_allclose((x / 1000).numpy(), [0.006, 0.009], rtol=1e-6)
    np.testing.assert_allclose(knet.hypot(x, -400).numpy(), np.hypot([6, 9], 400), rtol=1e-6)


def test_shifts_of_bools_are_refused_where_they_are_written():
    b = knet.array([True, False])
    for shift in (operator.lshift, operator.rshift):
        with pytest.raises(TypeError, match=r"shift\].*bool\(2,\).*astype"):
            shift(b, b)
    np.testing.assert_array_equal((b << 1).numpy(), [2, 0])


def test_unary_operators_and_pythons_functions():
    i, f = knet.array([3, -2, 7]), knet.array([1.5, -2.5])
    assert (-i).tolist() == [-3, 2, -7] and abs(i).tolist() == [3, 2, 7] and (~i).tolist() == [-4, 1, -8]
    assert (+f).tolist() == [1.5, -2.5] and round(f).tolist() == [2, -2]
    assert (~(i > 0)).tolist() == [False, True, False]
    assert [float(v) for v in i] == [3, -2, 7] and len(i) == 3 and list(map(int, reversed(i))) == [7, -2, 3]
    assert sum(i).item() == 8 and max(i).item() == 7 and sorted(i)[0].item() == -2 and 7 in i and 8 not in i
    assert [10, 20, 30, 40][i[0]] == 40 and list(range(i[0])) == [0, 1, 2] and int(f[0]) == 1 and bool(f[1])
    assert math.floor(f[0]) == 1 and complex(f[0]) == 1.5 and (f.T.shape, f.mT if f.ndim > 1 else None) == ((2,), None)
    for refused in (lambda: bool(i), lambda: float(i), lambda: i.item(), lambda: len(i[0])):
        with pytest.raises((TypeError, ValueError), match=r"\[\w+\] an array of shape"):
            refused()


# ---- types

@pytest.mark.parametrize("name, dtype", [
    ("f4", "float32"), ("<f8", "float64"), ("i8", "int64"), ("u1", "uint8"), ("int", "int64"), ("float", "float64"),
    ("double", "float64"), ("single", "float32"), ("?", "bool"), ("|b1", "bool"), (np.int16, "int16"), (int, "int64"),
    (np.dtype("u4"), "uint32"), (knet.int8, "int8")])
def test_names_of_types(name, dtype):
    assert knet.zeros(2, dtype=name).dtype == dtype == knet.ones(2).astype(name).dtype
    assert knet.zeros(2).astype(name).dtype == name
    assert np.zeros(2, knet.dtype(name)).dtype == dtype


# ---- methods

@pytest.mark.parametrize("call", [
    lambda x: x.sum(0), lambda x: x.mean(axis=1, keepdims=True), lambda x: x.prod(), lambda x: x.max(1),
    lambda x: x.min(axis=(0, 1)), lambda x: x.any(0), lambda x: x.all(), lambda x: x.argmax(), lambda x: x.argmin(1),
    lambda x: x.var(ddof=1), lambda x: x.std(0), lambda x: x.cumsum(1), lambda x: x.cumprod(0),
    lambda x: x[None].squeeze(), lambda x: x.swapaxes(0, 1), lambda x: x.transpose(), lambda x: x.transpose(1, 0),
    lambda x: x.reshape(4, -1), lambda x: x.reshape((2, 6)), lambda x: x.ravel(), lambda x: x.flatten(),
    lambda x: x.dot(x.T), lambda x: x.clip(0, 1), lambda x: x.argsort(), lambda x: x.repeat(2, axis=0),
    lambda x: x.take([0, 2], axis=1), lambda x: x.round(1), lambda x: x.diagonal(), lambda x: x.trace(),
    lambda x: x.nonzero()[0], lambda x: x.astype(int), lambda x: x.copy(), lambda x: x.T,
    lambda x: np.array([x.size, x.ndim, len(x), *x.shape, x.itemsize, x.nbytes]), lambda x: np.array(x.tolist()),
    lambda x: np.array([x.item(5), x.item(-1), x.item(1, 2), x.sum().item(), x[0].item(1), x.sum().item(0)])])
def test_methods_are_those_of_numpy(call, rng):
    x = rng.standard_normal((3, 4))
    got, expected = call(knet.array(x)), call(x)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-12)
    assert np.asarray(got).dtype == np.asarray(expected).dtype


# ---- sharing

def test_copies_and_handles():
    a = knet.array([1.0, 2.0])
    b, c, d, e = a, copy.copy(a), copy.deepcopy([a])[0], pickle.loads(pickle.dumps(a))
    a += 1
    a[0] = 9
    assert b is a and a.tolist() == [9, 3]
    assert c.tolist() == d.tolist() == e.tolist() == [1, 2]


def test_arrays_are_saved_and_compared_by_numpy(tmp_path):
    x = knet.array([1.0, 2.0])
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, y=x * 2)
    assert np.load(tmp_path / "x.npy").tolist() == [1, 2] and np.load(tmp_path / "x.npz")["y"].tolist() == [2, 4]
    assert np.allclose(x, [1, 2]) and np.array_equal(x, x) and not np.array_equal(x, x * 2)
    with pytest.raises(TypeError, match="depends on a parameter"):
        grad(lambda w: np.save(tmp_path / "w.npy", w) or w.sum())(np.ones(2))


def test_torch_reads_and_gives_arrays_without_a_copy():
    torch = pytest.importorskip("torch")
    x = knet.array([[1.0, 2.0], [3.0, 4.0]])
    t = torch.from_dlpack(x)
    assert t.tolist() == x.tolist() and t.data_ptr() == np.asarray(x).ctypes.data
    assert knet.from_dlpack(torch.arange(4.0).reshape(2, 2).T).tolist() == [[0, 2], [1, 3]]
    assert knet.array(torch.ones(2)).tolist() == [1, 1]


# ---- NumPy's functions

NOT_OURS = {"bitwise_count", "frexp", "nextafter", "spacing", "isnat", "matvec", "vecmat"}


@pytest.mark.parametrize("name", sorted(
    n for n in dir(np) if isinstance(getattr(np, n), np.ufunc) and n not in NOT_OURS))
def test_ufuncs_of_numpy(name, rng):
    ufunc = getattr(np, name)
    tried = 0
    floats, integers = rng.uniform(0.1, 0.9, (3, 3)).astype("float32"), rng.integers(1, 9, (3, 3))
    for a in (floats, integers, floats < 0.5):
        try:
            with np.errstate(all="ignore"):
                expected = ufunc(*[a] * ufunc.nin)
        except TypeError:
            continue
        got = result(ufunc, *[knet.array(a)] * ufunc.nin)
        if got is None:
            assert a.dtype == bool
            continue
        tried += 1
        for g, e in zip(got, expected if isinstance(expected, tuple) else (expected,), strict=True):
            assert g.dtype.kind == e.dtype.kind or e.dtype == "float16" or name == "reciprocal" or a.dtype == bool
            if g.dtype.kind == e.dtype.kind:
                np.testing.assert_allclose(g, e, rtol=2e-5 if a.dtype == "float32" else 1e-3)
    assert tried


def test_numpy_functions_more(rng):
    x, v = rng.standard_normal((3, 4)), rng.standard_normal(4)
    k, kv = knet.array(x), knet.array(v)
    for got, expected in [
            (np.matvec(k, kv), x @ v) if hasattr(np, "matvec") else (kv, v),
            (np.vecdot(k, kv), x @ v) if hasattr(np, "vecdot") else (kv, v),
            (np.diff(k), np.diff(x)), (np.diff(k, n=2, axis=0), np.diff(x, n=2, axis=0)),
            (np.append(k, kv), np.append(x, v)), (np.real(k), x), (np.conj(k), x),
            (np.einsum("ij,j->i", k, kv, optimize=True), x @ v),
            (np.clip(k, a_min=-1, a_max=1), np.clip(x, -1, 1)), (np.sort(k, kind="stable"), np.sort(x)),
            (np.split(k, indices_or_sections=3)[0], x[:1]), (np.isposinf(k), np.isposinf(x)),
            (np.nansum(k), np.nansum(x)),
            (np.argwhere(k > 0), np.argwhere(x > 0)), (np.flatnonzero(k > 0), np.flatnonzero(x > 0)),
            (k[np.nonzero(k > 0)], x[x > 0]), (np.hsplit(k, 2)[1], x[:, 2:]), (np.vsplit(k, 3)[0], x[:1])]:
        assert isinstance(got, knet.KnetArray)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)
    fraction, whole = np.modf(knet.array([3, -2]))
    assert fraction.dtype == whole.dtype == "float64" and whole.tolist() == [3, -2]


@pytest.mark.parametrize("convert", [
    lambda v: np.array([v[0], v[1]]), lambda v: np.asarray(v), lambda v: np.full(3, v[0]), lambda v: np.float64(v[0]),
    lambda v: math.sqrt(v[0]), lambda v: float(v[0]), lambda v: int(v[0]), lambda v: complex(v[0]),
    lambda v: np.random.normal(v), lambda v: np.vectorize(lambda z: z)(v), lambda v: np.from_dlpack(v),
    lambda v: pickle.dumps(v), lambda v: bytes(v), lambda v: v.tolist(), lambda v: v.numpy()])
def test_values_never_become_constants(convert):
    with pytest.raises(TypeError, match=r"depends on a parameter.*item\(\).*knet\.value"):
        grad(lambda v: v.sum() + 0 * np.sum(convert(v * 2)))(np.ones(2))


@pytest.mark.parametrize("call, name", [
    (lambda v: np.linalg.inv(v), "linalg.inv"), (lambda v: np.convolve(v[0], v[0]), "convolve"),
    (lambda v: np.add.at(np.zeros(2), 0, v), "add.at"), (lambda v: np.unique(v), "unique")])
def test_functions_without_counterpart_are_named(call, name):
    with pytest.raises(TypeError, match=f"numpy.{name}"):
        grad(lambda v: call(v).sum())(np.ones((2, 2)))


def test_writing_into_numpy_arrays_is_refused():
    def f(v):
        z = np.zeros(2)
        z += v
        return z.sum()
    with pytest.raises(TypeError, match="a = a \\+ x"):
        grad(f)(np.ones(2))

    def g(v):
        z = np.zeros(2)
        z[0] = v[0]
        return z.sum()
    with pytest.raises((TypeError, ValueError)):
        grad(g)(np.ones(2))


# ---- grad

Pair = namedtuple("Pair", "a b")


@dataclass
class Layer:
    w: object
    b: object = 0.0


def test_containers_mirror():
    x = np.array([1.0, 2.0])
    w = {"o": OrderedDict(a=x), "d": defaultdict(list, k=[x]), "p": Pair(2.0, x), "l": Layer(x), "e": [], "n": None}
    f = lambda w: (w["o"]["a"] * w["d"]["k"][0] * w["p"].b * w["l"].w).sum() * w["p"].a + w["l"].b  # noqa: E731
    d = grad(f)(w)
    assert [type(d[k]) for k in w] == [type(w[k]) for k in w]
    np.testing.assert_allclose(d["o"]["a"], 2 * x ** 3)
    assert d["p"].a == (x ** 4).sum() and d["l"].b == 1.0 and d["e"] == []


def test_value_of_a_nest_is_a_constant():
    assert grad(lambda w: w[0] * knet.value(w)[0])([3.0]) == [3.0]
    assert grad(lambda w: w["a"] * knet.value(w)["a"])({"a": 3.0}) == {"a": 3.0}
    assert grad(lambda w: w.b * knet.value(w).b)(Layer(None, 3.0)).b == 3.0
    assert knet.value(2.0) == 2.0 and knet.value([1, 2]) == [1, 2] and knet.value("name") == "name"


def test_argnum():
    f = lambda a, b: a * a * b  # noqa: E731
    assert grad(f, np.int64(1))(2.0, 3.0) == 4.0
    assert grad(f, [0, 1])(2.0, 3.0) == (12.0, 4.0)
    with pytest.raises(TypeError, match="argnum is 'a'"):
        grad(f, "a")(2.0, 3.0)
    for make in (grad, knet.gradloss, knet.value_and_grad):
        with pytest.raises(TypeError, match="float is not a function"):
            make(f(2.0, 3.0))


@pytest.mark.parametrize("f, x, expected", [
    (lambda v: sum(v), [1.0, 5.0, 2.0], [1, 1, 1]), (lambda v: max(v), [1.0, 5.0, 2.0], [0, 1, 0]),
    (lambda v: sorted(v)[0] * 3, [1.0, 5.0, 2.0], [3, 0, 0]), (lambda v: np.linalg.norm(v), [3.0, 4.0], [0.6, 0.8]),
    (lambda v: [1.0, 2.0, 3.0][(v * 2).argmax()] * v.sum(), [1.0, 5.0, 2.0], [2, 2, 2]),
    (lambda v: v[v > 1].sum(), [0.5, 2.0], [0, 1]), (lambda v: v[[0, 0, 1]].sum(), [0.5, 2.0], [2, 1]),
    (lambda v: np.linspace(0, v[0], 3).sum(), [2.0], [1.5]), (lambda v: copy.deepcopy(v).sum(), [1.0, 2.0], [1, 1]),
    (lambda v: (v > 1).sum() * v.sum(), [0.5, 2.0], [1, 1]), (lambda v: np.clip(v, 0, 1).sum(), [0.5, 2.0], [1, 0]),
    (lambda v: abs(v[0]) ** 2.5, [-2.0], [-2.5 * 2 ** 1.5]), (lambda v: 2 ** v[0], [2.0], [4 * math.log(2)]),
    (lambda v: v[0] ** 0, [0.0], [0]), (lambda v: v[0] ** 2, [0.0], [0]),
    (lambda v: np.diff(v).sum(), [1.0, 2.0, 4.0], [-1, 0, 1])])
def test_gradients_of_plain_python(f, x, expected):
    np.testing.assert_allclose(grad(f)(np.array(x)), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(grad(f)(knet.array(x, dtype="float64")).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_functions_of_all_kinds_are_differentiated():
    import functools
    assert grad(knet.sin)(0.0) == grad(np.sin)(0.0) == 1.0
    assert grad(functools.partial(lambda a, w: w * a, 5.0))(1.0) == 5.0
    assert grad(type("Model", (), {"__call__": lambda self, w: w * 3})())(1.0) == 3.0
    assert grad(grad(grad(lambda x: x ** 5)))(2.0) == 240.0


# ---- models as users write them; each checked by central differences, as NumPy arrays and as KnetArrays

def batch_norm(w, x, y):
    h = x @ w["w1"] + w["b1"]
    h = (h - h.mean(0)) / np.sqrt(((h - h.mean(0)) ** 2).mean(0) + 1e-5) * w["g"] + w["be"]
    return ((np.maximum(h, 0) @ w["w2"] - y) ** 2).mean()


def layer_norm(w, x, y):
    h = (x - np.mean(x, axis=-1, keepdims=True)) / np.sqrt(np.var(x, axis=-1, keepdims=True) + 1e-5)
    return ((knet.gelu((h * w["g"] + w["b"]) @ w["w"]) - y) ** 2).sum()


def attention(w, x, y):
    n, t, d = x.shape
    q, k, v = ((x @ w[i]).reshape(n, t, 2, d // 2).transpose(0, 2, 1, 3) for i in range(3))
    scores = knet.where(knet.tril(knet.ones((t, t))) > 0, q @ k.swapaxes(-1, -2) / math.sqrt(d // 2), -1e9)
    return ((knet.softmax(scores, axis=-1) @ v).transpose(0, 2, 1, 3).reshape(n, t, d) @ w[3] - y).var()


def gru(w, x, y):
    h, states = x[0] * 0, []
    for xt in x:
        both = knet.concatenate([xt, h], axis=1)
        z, r = knet.split(knet.sigm(both @ w["gates"]), 2, axis=1)
        h = (1 - z) * h + z * np.tanh(knet.concatenate([xt, r * h], axis=1) @ w["new"])
        states.append(h)
    return ((knet.stack(states) - y) ** 2).mean()


def tree(w, x, y):
    def encode(node):
        if isinstance(node, int):
            return w["e"][node]
        return np.tanh(np.concatenate([encode(node[0]), encode(node[1])]) @ w["c"])
    return (encode(((0, 1), ((2, 3), (0, (1, 2))))) ** 2).sum()


def vae(w, x, y):
    h = np.tanh(x @ w["e"])
    mu, logvar = h @ w["m"], h @ w["v"]
    out = np.tanh((mu + np.exp(logvar / 2) * y) @ w["d"])
    return ((out - x) ** 2).sum() - 0.5 * (1 + logvar - mu ** 2 - np.exp(logvar)).sum()


def simulation(w, x, y):
    position, velocity, t = w["p"], w["v"], 0.0
    while t < 1:
        distance = np.sqrt((position * position).sum() + 0.01)
        force = -w["k"] * position / distance ** 3
        if distance.item() > 0.8:
            force = force - 0.1 * velocity
        velocity = velocity + 0.05 * force
        position = position + 0.05 * velocity
        t += 0.05
    return (position ** 2).sum() + velocity[0] * velocity[1]


def accumulated(w, x, y):
    return sum(((np.tanh(xi @ w) - yi) ** 2).sum() for xi, yi in zip(x, y)) / len(x)


def embedding(w, x, y):
    ids = np.array([[0, 1, 1], [3, 2, 0]])
    return knet.nll(w["e"][ids].mean(1) @ w["w"], np.array([1, 0]))


def convolutional(w, x, y):
    h = knet.pool(np.maximum(knet.conv4(w[0], x.reshape(1, 1, *x.shape), padding=1) + w[1], 0))
    h = knet.unpool(knet.deconv4(w[2], h, mode=1), mode=1)
    return (h ** 2).mean() + knet.mat(h).std()


def numbers(shape):
    """Numbers of this shape, or a nest of shapes, neither equal nor large."""
    if isinstance(shape, dict):
        return {k: numbers(s) for k, s in shape.items()}
    if isinstance(shape, list):
        return [numbers(s) for s in shape]
    return np.sin(np.arange(1.0, 1 + math.prod(shape)) ** 2).reshape(shape) * 0.7 if shape else 0.7


MODELS = [  # function, shapes of parameters, of x and of y
    (batch_norm, {"w1": (4, 6), "b1": (6,), "g": (6,), "be": (6,), "w2": (6, 3)}, (5, 4), (5, 3)),
    (layer_norm, {"g": (4,), "b": (4,), "w": (4, 3)}, (3, 4), (3, 3)),
    (attention, [(4, 4)] * 4, (2, 3, 4), (2, 3, 4)),
    (gru, {"gates": (6, 6), "new": (6, 3)}, (4, 2, 3), (4, 2, 3)),
    (tree, {"e": (4, 3), "c": (6, 3)}, (1,), (1,)),
    (vae, {"e": (4, 5), "m": (5, 2), "v": (5, 2), "d": (2, 4)}, (3, 4), (3, 2)),
    (simulation, {"p": (2,), "v": (2,), "k": ()}, (1,), (1,)),
    (accumulated, (4, 3), (3, 4), (3, 3)),
    (embedding, {"e": (4, 5), "w": (5, 3)}, (1,), (1,)),
    (convolutional, [(2, 1, 3, 3), (1, 2, 1, 1), (2, 1, 2, 2)], (6, 6), (1,)),
]


@pytest.mark.parametrize("f, w, x, y", MODELS, ids=[m[0].__name__ for m in MODELS])
def test_models(f, w, x, y):
    def ours(nest, by=1.0):
        return knet.tree.map(lambda v: knet.array(v * by) if isinstance(v, np.ndarray) else v, nest)

    w, x, y = numbers(w), numbers(x), numbers(y)
    assert gradcheck(f, w, x, y, rtol=1e-5, nsample=20, verbose=True)
    d, value = knet.gradloss(f)(w, x, y)
    other, other_value = knet.gradloss(f)(ours(w), ours(x), ours(y))
    np.testing.assert_allclose(value, float(other_value), rtol=1e-10)
    for a, b in zip(knet.tree.leaves(d), knet.tree.leaves(other), strict=True):
        assert type(b) is (knet.KnetArray if isinstance(a, np.ndarray) else float)
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-8, atol=1e-12)
    before = knet.memory()["plan_misses"]
    if f is not simulation:  # other numbers may take another branch there
        for by in (1.01, 0.99):
            knet.gradloss(f)(ours(w, by), ours(x), ours(y))
    assert knet.memory()["plan_misses"] == before


def test_adam_by_hand_makes_no_new_plan_as_time_goes_on():
    w, m, v = knet.ones((3, 2)), knet.zeros((3, 2)), knet.zeros((3, 2))
    expect = np.ones((3, 2)), np.zeros((3, 2)), np.zeros((3, 2))
    x = knet.array(np.sin(np.arange(12.0, dtype="float32")).reshape(4, 3))
    for t in range(1, 12):
        if t == 4:
            before = knet.memory()["plan_misses"]
        g = grad(lambda w: ((x @ w - 1) ** 2).sum())(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= 0.01 / t * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
        ew, em, ev = expect
        eg = 2 * x.numpy().T @ (x.numpy() @ ew - 1)
        em, ev = 0.9 * em + 0.1 * eg, 0.999 * ev + 0.001 * eg * eg
        expect = ew - 0.01 / t * (em / (1 - 0.9 ** t)) / (np.sqrt(ev / (1 - 0.999 ** t)) + 1e-8), em, ev
    assert knet.memory()["plan_misses"] == before
    np.testing.assert_allclose(w.numpy(), expect[0], rtol=1e-4)


# ---- convolution, every mode, one to three dimensions

@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", [
    {}, {"mode": 1}, {"padding": 1, "stride": 2}, {"dilation": 2, "group": 2, "mode": 1}], ids=str)
def test_gradients_of_convolutions(dims, options, rng):
    group = options.get("group", 1)
    x = rng.standard_normal((2, 2, 6, 5, 5)[:2 + dims])
    w = rng.standard_normal((2, 2 // group, 2, 3, 2)[:2 + dims])
    assert gradcheck(lambda p: knet.conv4(*p, **options), [w, x], nsample=8, verbose=True)
    assert gradcheck(lambda p: knet.deconv4(*p, **options), [w, x], nsample=8, verbose=True)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_gradients_of_pooling(dims, mode, rng):
    x = rng.standard_normal((2, 2, 6, 4, 5)[:2 + dims])
    for options in ({}, {"window": 3, "stride": 2, "padding": 1}):
        assert gradcheck(lambda p: knet.pool(p, mode=mode, **options), x, nsample=8, verbose=True)
    assert gradcheck(lambda p: knet.unpool(p, mode=mode), x, nsample=8, verbose=True)


# ---- random numbers

def test_random_numbers_do_not_depend_on_threads():
    program = """if True:
        import hashlib, sys, knet
        knet.config.threads = int(sys.argv[1])
        knet.seed(5)
        h = hashlib.sha256()
        for y in (knet.rand(301, 307), knet.randn(100001), knet.integers(0, 10, (70001,)), knet.permutation(5003),
                  knet.bernoulli(0.3, (50003,)), knet.uniform(-1, 1, (40000,), "float64"), knet.xavier(300, 200),
                  knet.categorical(probs=knet.array([0.2, 0.8]), shape=(1000,)),
                  knet.dropout(knet.ones(100000), 0.5, drop=True)):
            h.update(y.numpy().tobytes())
        print(h.hexdigest())"""
    seen = {subprocess.run([sys.executable, "-c", program, str(n)], check=True, capture_output=True, text=True).stdout
            for n in (1, 2, 5)}
    assert len(seen) == 1


def test_random_arguments():
    with pytest.raises(ValueError, match="1.5 is not a probability"):
        knet.bernoulli(1.5, (3,))
    with pytest.raises(TypeError, match="integer, not 'a'"):
        knet.seed("a")
    knet.seed(np.int64(-1))
    assert knet.xavier(3, 4).shape == (3, 4) and knet.gaussian(5).shape == (5,)
    assert knet.bilinear(2, 1).shape == (1, 1, 4, 4)


# ---- settings, printing, messages

def test_settings():
    with pytest.raises(AttributeError, match="no setting 'thread'.*threads"):
        knet.config.thread = 2
    for bad in ("a", 1.5):
        with pytest.raises(TypeError, match="threads cannot be"):
            knet.config.threads = bad
    with pytest.raises(ValueError, match="1 or more"):
        knet.config.threads = 0
    assert "threads = " in repr(knet.config) and "live" in knet.memory() and "pooled" in repr(knet.memory())


@pytest.mark.parametrize("shape", [
    (0,), (2, 0, 3), (), (1,), (1, 1, 1), (300,), (200, 1), (30, 30), (5, 1000), (3,) * 6, (50, 50, 50, 3), (2,) * 8,
    (100, 2, 1), (10 ** 6,), (2, 4, 5, 3), (20, 10)], ids=str)
def test_printing_does_not_flood_a_terminal(shape):
    text = repr(knet.zeros(shape))
    assert text.count("\n") < 40 and len(text) < 2500
    assert f"shape={shape}" in text and "float32" in text and "cpu" in text


def test_printing_of_special_numbers():
    assert str(knet.array([np.nan, np.inf, -np.inf])) == "[ nan,  inf, -inf]"
    assert str(knet.array([1e10, 1.0])) == "[1e+10, 1e+00]" and str(knet.array(1e-7)) == "1e-07"
    assert str(knet.array([-0.0])) == "[-0.]" and str(knet.array([True, False])) == "[ True, False]"
    assert f"{knet.array(2.5):.3f}" == "2.500" and "%s" % knet.array(3) == "3"


@pytest.mark.parametrize("call, words", [
    (lambda x: x @ x, r"\[matmul\].*\(2, 3\)"), (lambda x: x + knet.ones(4), r"\[add\].*\(2, 3\).*\(4,\)"),
    (lambda x: x.reshape(7), r"\[reshape\].*\(2, 3\).*7"),
    (lambda x: knet.concatenate([x, knet.ones((3, 4))]), r"\[concatenate\].*\(2, 3\).*\(3, 4\)"),
    (lambda x: knet.stack([x, knet.ones(2)]), r"\[stack\].*\(2, 3\).*\(2,\)"),
    (lambda x: x.sum(2), r"\[sum\].*2.*\(2, 3\)"), (lambda x: knet.conv4(x, x), r"\[conv4\].*\(2, 3\)"),
    (lambda x: knet.einsum("ij,jk", x, x), r"\[einsum\].*'j'"),
    (lambda x: knet.einsum([0, 1], x), r"\[einsum\].*text"), (lambda x: x[5], "5 is out of bounds"),
    (lambda x: knet.zeros(2, 3), r"zeros\(\(2, 3\)\)"), (lambda x: knet.ones(2.5), r"2.5 is not a shape"),
    (lambda x: knet.diff(x, n=-1), r"\[diff\]"), (lambda x: knet.array("a"), "array")])
def test_messages_name_the_operation_and_the_shapes(call, words):
    with pytest.raises((ValueError, TypeError, IndexError), match=words) as info:
        call(knet.ones((2, 3)))
    assert any("test_surface.py" in str(entry.path) for entry in info.traceback[-6:])


# ---- functions that are called at every step cost microseconds

def test_recording_is_cheap():
    import time
    x, w, im = knet.ones((4, 4)), knet.ones((2, 2, 3, 3)), knet.ones((2, 2, 6, 6))
    for call in (lambda: knet.einsum("ij,jk->ik", x, x), lambda: knet.stack([x, x]), lambda: knet.conv4(w, im)):
        call()
        times = []
        for _ in range(20):
            knet._core.run()
            start = time.perf_counter()
            for _ in range(50):
                call()
            times.append((time.perf_counter() - start) / 50)
        assert min(times) < 25e-6  # 4 us where nothing else runs
