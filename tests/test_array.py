"""KnetArray: construction, attributes, methods, numbers, functions, printing."""

import copy
import inspect
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from arrays import DTYPES, A, same

import knet

# ---- construction


@pytest.mark.parametrize("dtype", DTYPES)
def test_from_numpy(dtype):
    a = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
    for v in (a, a.T, a[::-1, ::2], a[:, 1], a[1, 2, 3], a[:0], np.asfortranarray(a), a.astype(a.dtype.newbyteorder())):
        same(knet.array(v), np.asarray(v).astype(dtype))
        same(knet.KnetArray(v), np.asarray(v).astype(dtype))


def test_from_python():
    for o, dtype in [
        (1.5, "float32"),
        (2, "int64"),
        (True, "bool"),
        ([1.0, 2], "float32"),
        ([1, 2], "int64"),
        ([True, 2], "int64"),
        ([], "float32"),
        ([[1, 2], [3, 4.5]], "float32"),
        (((1, 2),), "int64"),
        ([np.float32(1), 2.0], "float32"),
        ([np.arange(2), [0.5, 1]], "float64"),
        (2**63, "uint64"),
        ([True], "bool"),
        ([[]], "float32"),
        (memoryview(b"ab"), "uint8"),
    ]:
        x = knet.array(o)
        assert x.dtype == dtype and x.shape == np.shape(o), o
        np.testing.assert_array_equal(x.numpy(), np.asarray(o).astype(dtype))
    assert knet.array([1.7, -2.2], dtype="int32").tolist() == [1, -2]
    assert knet.array([1, 2], dtype=np.float64).dtype == float
    assert knet.array(A, dtype=knet.float64).dtype == "float64"
    assert knet.float64(3).dtype == "float64"


def test_default_dtype():
    old = knet._core.default_dtype()
    try:
        knet._core.set_default_dtype("float64")
        assert knet.array([1.0]).dtype == "float64"
        with pytest.raises(ValueError):
            knet._core.set_default_dtype("int32")
    finally:
        knet._core.set_default_dtype(old)


@pytest.mark.parametrize(
    "o, error",
    [
        ("abc", TypeError),
        ([1, "a"], TypeError),
        ([[1, 2], [3]], ValueError),
        ([1, [2]], ValueError),
        ([np.zeros(2), np.zeros(3)], ValueError),
        (None, TypeError),
        ({1: 2}, TypeError),
        (object(), TypeError),
        (np.zeros(2, np.float16), TypeError),
        (np.zeros(2, np.complex64), TypeError),
        (np.array(["a"]), TypeError),
        (np.array([None]), TypeError),
        (2**64, OverflowError),
        (-(2**63) - 1, OverflowError),
        (1j, TypeError),
        (np.ma.array([1.0], mask=[True]), TypeError),
        (np.zeros(1, "M8[s]"), TypeError),
        (b"ab", TypeError),
    ],
)
def test_what_holds_no_numbers(o, error):
    with pytest.raises(error):
        knet.array(o)


def test_arguments_of_array():
    with pytest.raises(TypeError, match="dtype"):
        knet.array(1, dtype="float31")
    with pytest.raises(TypeError):
        knet.array(1, dtype="float16")
    with pytest.raises((RuntimeError, ValueError)):
        knet.array(1, device="tpu")
    with pytest.raises(ValueError):
        knet.array(A, copy=False)
    assert knet.array(1, device="cpu").device == "cpu"


def test_recursive_list_is_refused():
    o = []
    o.append(o)
    with pytest.raises(ValueError):
        knet.array(o)


def test_lists_of_ours_are_differentiable():
    a, b = knet.array(2.0), knet.array(3.0)
    x = knet.array([[a, 1], [b * 2, 0.5]])
    assert x.tolist() == [[2.0, 1.0], [6.0, 0.5]] and x.dtype == "float32"
    g = knet.grad(lambda w: knet.array([w[0] * 2, w[1] * w[1], 1.0]).sum())([2.0, 3.0])
    assert g == [2.0, 6.0]
    assert knet.array([knet.array([1.0, 2.0]), np.array([3, 4])]).shape == (2, 2)
    assert ([a, 2.0] * knet.array([1.0, 1.0])).tolist() == [2.0, 2.0]


# ---- attributes


def test_attributes():
    x = knet.array(A)
    assert (x.shape, x.ndim, x.size, x.itemsize, x.nbytes, x.device, len(x)) == ((2, 3), 2, 6, 4, 24, "cpu", 2)
    same(x.T, A.T)
    same(knet.array(np.arange(24).reshape(2, 3, 4)).mT, np.arange(24).reshape(2, 3, 4).swapaxes(1, 2))
    assert x.item(1, 2) == -6.5 and knet.array([7]).item() == 7
    for name in ("shape", "dtype", "foo"):
        with pytest.raises(AttributeError):
            setattr(x, name, 1)
    with pytest.raises(TypeError):
        len(knet.array(1.0))
    with pytest.raises(ValueError):
        x.item()


def test_dtype_object():
    t = knet.array(A).dtype
    assert (
        t == "float32" == t
        and t == np.float32
        and t == np.dtype("float32")
        and np.float32 == t
        and np.dtype("float32") == t
    )
    assert t == "".join(["float", "32"]) and knet.zeros(1, dtype="".join(["int", "64"])).dtype == "int64"
    assert t != "float64" and t != np.float64 and t != 3 and t != None and t != "abc"  # noqa: E711
    assert t is knet.float32 and hash(t) == hash("float32") and {t: 1}["float32"] == 1
    assert str(t) == "float32" and repr(t) == "knet.float32" and f"{t}" == "float32"
    assert np.zeros(2, dtype=t).dtype == np.float32 and t.itemsize == 4 and t.kind == "f"
    assert pickle.loads(pickle.dumps(t)) is t and copy.deepcopy(t) == t
    assert knet.float64 == float and knet.int64 == int and knet.bool_ == bool and knet.dtype("int8") is knet.int8
    assert knet.array([True]).dtype == np.bool_


def test_methods():
    x = knet.array(A)
    same(x.reshape(3, -1), A.reshape(3, 2))
    same(x.reshape((6,)), A.ravel())
    same(x.flatten(), A.ravel())
    same(x.ravel(), A.ravel())
    same(
        knet.array(np.arange(24).reshape(2, 3, 4)).transpose(2, 0, 1), np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1)
    )
    same(x.transpose((1, 0)), A.T)
    same(x.transpose(-1, 0), A.T)
    same(x.transpose(), A.T)
    for method in ("sum", "mean", "prod", "max", "min", "argmax", "argmin", "any", "all", "var", "std"):
        for kw in ({}, {"axis": 0}, {"axis": -1, "keepdims": True}):
            y, z = getattr(x, method)(**kw), np.asarray(getattr(A, method)(**kw))
            assert y.shape == z.shape and y.dtype == z.dtype, method
            np.testing.assert_allclose(y.numpy(), z, rtol=1e-5)
    same(x.sum(1), A.sum(1))
    same(x.cumsum(0), A.cumsum(0))
    same(x.swapaxes(0, 1), A.swapaxes(0, 1))
    same(x.clip(-1, 2), A.clip(-1, 2))
    same(x.round(), A.round())
    same(round(x), A.round())
    same(x.dot(A.T), A.dot(A.T))
    same(x.take(knet.array([0, 2]), axis=1), A.take([0, 2], axis=1))
    same(knet.array(A[None]).squeeze(0), A)
    same(x.astype("int32"), A.astype("int32"))
    same(x.astype(np.float64), A.astype(np.float64))
    same(x.to_device("cpu"), A)
    with pytest.raises((RuntimeError, ValueError)):
        x.to_device("cuda:0")
    with pytest.raises(ValueError):
        x.reshape(4, 4)
    with pytest.raises(ValueError):
        x.transpose(0)
    with pytest.raises(ValueError):
        x.transpose(0, 0)


# ---- numbers


def test_numbers():
    x = knet.array([3.5])
    assert float(x) == 3.5 and int(x) == 3 and bool(x) and math.sqrt(knet.array(4.0)) == 2.0 and not knet.array(0.0)
    assert [1, 2, 3][knet.array(1)] == 2 and list(range(knet.array(3))) == [0, 1, 2]
    assert isinstance(x.item(), float) and isinstance(knet.array(1).item(), int) and knet.array(True).item() is True
    assert knet.array(2**64 - 1, dtype="uint64").item() == 2**64 - 1
    with pytest.raises(ValueError, match="knet.maximum"):
        max(knet.array([0.0, 1.0]), knet.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="any"):
        bool(knet.array([]))
    for f in (float, int):
        with pytest.raises(TypeError):
            f(knet.array([1.0, 2.0]))
    with pytest.raises(TypeError):
        [1, 2][knet.array(1.0)]


def test_tracked_values_never_become_constants():
    seen = {}

    def refused(f):
        with pytest.raises(TypeError) as e:
            f()
        assert "knet.value" in str(e.value) or "item" in str(e.value), str(e.value)

    def f(x):
        y = (x * 2).sum()
        for way in (
            float,
            int,
            np.asarray,
            np.array,
            math.sin,
            memoryview,
            lambda v: v.tolist(),
            lambda v: v.numpy(),
            lambda v: np.array([v, v]),
            lambda v: v.__dlpack__(),
            pickle.dumps,
            lambda v: np.asarray(v, dtype=np.float64),
            lambda v: np.array([v, 1.0]),
        ):
            refused(lambda: way(y))
        seen.update(
            item=y.item(), text=str(y), repr=repr(y), format=f"{y:.2f}", truth=bool(y > 1), value=float(knet.value(y))
        )
        return y if y < 100 else -y

    g = knet.grad(f)(knet.array([1.0, 2.0]))
    assert g.tolist() == [2.0, 2.0]
    assert seen["item"] == seen["value"] == 6.0 and seen["truth"] is True and seen["format"] == "6.00"
    assert float(g[0]) == 2.0 and np.asarray(g).tolist() == [2.0, 2.0]


# ---- functions


def test_calls_of_operations():
    x = knet.array(A)
    same(knet.sum(x, 0), A.sum(0))
    same(knet.sum(x=x, axis=(0, 1), keepdims=True), A.sum(keepdims=True))
    same(knet.sum(A, axis=-1), A.sum(-1))
    same(knet.argmax(x), np.asarray(A.argmax()))
    same(knet.argmax(x, keepdims=True), A.argmax(keepdims=True))
    same(knet.add([1.0, 2.0], x[0, :2]), np.array([2.5, 0.0], np.float32))
    assert knet.sin(0.5).dtype == "float64" and knet.add(1, 2).dtype == "int64"
    for f, text in (
        (lambda: knet.sum(), "missing"),
        (lambda: knet.sum(x, axes=0), "axes"),
        (lambda: knet.sum(x, 0, axis=0), "twice"),
        (lambda: knet.sum(x, 0, False, 3), "too many"),
        (lambda: knet.sum(x, "a"), "axis"),
        (lambda: knet.sum(x, 1.0), "axis"),
        (lambda: knet.tanh("a"), "tanh"),
        (lambda: knet.tanh(None), "tanh"),
    ):
        with pytest.raises(TypeError, match=text):
            f()
    with pytest.raises(IndexError, match="axis 2"):
        knet.sum(x, 2)
    with pytest.raises(ValueError, match="twice"):
        knet.sum(x, (0, -2))
    assert knet.sum(x, knet.array(1)).tolist() == knet.sum(x, (knet.array(0) + 1,)).tolist() == A.sum(1).tolist()
    assert knet.sum(x * 2, np.int64(1), keepdims=knet.array(1.0) > 0).shape == (2, 1)
    assert (x * 2)[: knet.array(1) + 0].shape == (1, 3)
    assert str(inspect.signature(knet.sum)) == "(x, axis=None, keepdims=False)"
    assert knet.sum.__name__ == "sum" and knet.sum.__doc__ and "sum" in repr(knet.sum)


# ---- printing


def test_printing():
    assert (
        repr(knet.array([[1.0, 2.0], [3.0, 4.0]]))
        == "KnetArray([[1., 2.], [3., 4.]], shape=(2, 2), dtype=float32, cpu)"
    )
    assert str(knet.array([1, -2])) == "[ 1, -2]" and str(knet.array(1.5)) == "1.5" and str(knet.array([])) == "[]"
    assert (
        f"{knet.array(3.14159):.2f}" == "3.14"
        and f"{knet.array([2]):3d}" == "  2"
        and f"{knet.array([True])}" == "[True]"
    )
    assert repr(knet.array(7)) == "KnetArray(7, shape=(), dtype=int64, cpu)"
    with pytest.raises(TypeError):
        f"{knet.array([1, 2]):d}"
    assert len(repr(knet.zeros((1000, 1000)))) < 1500 and len(repr(knet.zeros((4,) * 8))) < 20000
    for v in ([float("nan"), 1.0], [float("inf"), -1.0], [1e-20, 1.0], [1e30], [0.1, 100.25], [0.0]):
        text = str(knet.array(v))
        assert len(text) < 60
        values = [float(t) for t in text.strip("[]").split(",")]
        np.testing.assert_allclose(values, v, rtol=1e-5)
    assert "shape" in repr(knet.zeros((0, 3)))


def test_no_numpy_at_import():
    code = (
        "import sys, knet; x = knet.array([[1.0, 2.0]]); s = repr(x @ x.T); x[0, 1:] = 3; x.sum().item(); "
        "x == [1.0, 2.0]; "
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
