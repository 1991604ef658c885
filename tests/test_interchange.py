"""KnetArray and others: views, copies, DLPack, pickles, threads, NumPy's functions on our arrays."""

import copy
import gc
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, A, same

import knet

# ---- memory


@pytest.mark.parametrize("dtype", DTYPES)
def test_to_numpy_and_back(dtype):
    a = (np.arange(6).reshape(2, 3) % 3).astype(dtype)
    for v in (a, a[0, 0], a[:0]):
        x = knet.array(v)
        for y in (
            np.asarray(x),
            x.numpy(),
            np.array(x),
            np.from_dlpack(x),
            knet.from_dlpack(x).numpy(),
            np.asarray(memoryview(x)),
        ):
            assert y.dtype == dtype and y.shape == np.shape(v)
            np.testing.assert_array_equal(y, v)
        assert x.tolist() == v.tolist()


def test_views_are_read_only_and_pinned():
    x = knet.array(A)
    view = np.asarray(x)
    assert not view.flags.writeable and np.shares_memory(view, np.asarray(x))
    with pytest.raises(TypeError):
        memoryview(x).cast("B")[0] = 1
    d = np.from_dlpack(x)
    assert not d.flags.writeable and np.shares_memory(d, view)
    y = x.numpy()
    y[:] = 0
    x += 1
    x = x * 2
    same(x, (A + 1) * 2)
    np.testing.assert_array_equal(view, A)
    np.testing.assert_array_equal(d, A)
    del x
    gc.collect()
    knet.array(np.zeros_like(A)).tolist()
    np.testing.assert_array_equal(view, A)
    assert np.asarray(knet.array(A), dtype=np.float64).dtype == np.float64
    assert np.array(knet.array(A), copy=True).flags.writeable
    with pytest.raises(ValueError):
        np.asarray(knet.array(A), dtype=np.float64, copy=False)


def test_numpy_operands_are_copied():
    a = A.copy()
    x = knet.array(np.ones_like(a))
    y, z = x + a, knet.array(a)
    a[:] = 0
    same(y, A + 1)
    same(z, A)


def test_dlpack():
    a = np.arange(6.0)
    x = knet.from_dlpack(a)
    assert np.shares_memory(np.asarray(x), a)
    assert not np.shares_memory(np.asarray(knet.from_dlpack(a, copy=True)), a)
    same(knet.from_dlpack(a[::2]), a[::2])
    same(knet.from_dlpack(a.reshape(2, 3).T), a.reshape(2, 3).T)
    with pytest.raises(ValueError):
        knet.from_dlpack(a[::2], copy=False)
    r = sys.getrefcount(a)
    y = knet.from_dlpack(a)
    assert sys.getrefcount(a) > r
    del y
    gc.collect()
    assert sys.getrefcount(a) == r
    assert x.__dlpack_device__() == (1, 0)
    old = x.__dlpack__()  # version 0: a copy that may be written
    assert "versioned" not in repr(old)
    with pytest.raises(BufferError):
        x.__dlpack__(copy=False)
    with pytest.raises(BufferError):
        x.__dlpack__(stream=1)
    del old
    x.__dlpack__(max_version=(1, 0))  # dropped without being taken
    x += 1
    np.testing.assert_array_equal(a, np.arange(6.0))
    with pytest.raises(TypeError):
        knet.from_dlpack(np.zeros(2, np.complex64))
    with pytest.raises(AttributeError):
        knet.from_dlpack(3)


def test_other_float_types_are_named():
    with pytest.raises(TypeError, match="bfloat16|buffer|elements|numbers"):
        knet.array(np.zeros(2, ml_dtypes.bfloat16))


def test_copies_and_pickles():
    x = knet.array(A)
    for y in (
        x.copy(),
        copy.copy(x),
        copy.deepcopy(x),
        copy.deepcopy([x])[0],
        knet.array(x),
        (x * 1).copy(),
        *(pickle.loads(pickle.dumps(x, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
    ):
        assert y is not x
        same(y, A)
        y += 1
        same(x, A)
    for v in (knet.array(3), knet.array([]), knet.array(np.zeros((0, 3), np.int8)), knet.array([True])):
        w = pickle.loads(pickle.dumps(v, 5))
        assert w.shape == v.shape and w.dtype == v.dtype
    buffers = []
    data = pickle.dumps(x, 5, buffer_callback=buffers.append)
    assert len(buffers) == 1 and len(data) < 200
    same(pickle.loads(data, buffers=buffers), A)
    for bad in (
        (b"abc", "float32", (1,)),
        (b"abcd", "float32", (-1,)),
        (b"abcd", "float31", (1,)),
        (b"abcd", "float32", (2**62, 4)),
        (b"", "float32", (0,) * 20),
    ):
        with pytest.raises((ValueError, TypeError)):
            knet._core._rebuild(*bad)
    assert pickle.loads(pickle.dumps(knet.tanh)) is knet.tanh


def test_weak_references_and_reuse():
    x = knet.array(1.0)
    r = weakref.ref(x)
    del x
    assert r() is None
    y = [knet.array([float(i)]) + 1 for i in range(2000)]
    assert [v.item() for v in y] == [i + 1.0 for i in range(2000)]
    del y


def test_arrays_are_shared_among_threads():
    x = knet.array(np.arange(8.0))
    pending = x * 3

    def work(i):
        y = pending + i
        z = x * i + y
        return z, [float(v) for v in z[:2]]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(40)))
    for i, (z, first) in enumerate(results):
        expected = np.arange(8.0) * i + np.arange(8.0) * 3 + i
        same(z + 0, expected)
        assert first == expected[:2].tolist()


# ---- NumPy's functions


def test_numpy_functions():
    x = knet.array(A)
    for f in (
        np.tanh,
        np.exp,
        lambda v: np.sum(v, 0),
        lambda v: np.sum(v, axis=1, keepdims=True),
        lambda v: np.mean(v),
        lambda v: np.max(v, 1),
        lambda v: np.where(v > 0, v, 0),
        lambda v: np.concatenate([v, A]),
        lambda v: np.concatenate((A, v), axis=1),
        lambda v: np.stack([v, v], 1),
        np.transpose,
        lambda v: np.reshape(v, (3, 2)),
        lambda v: v + A,
        lambda v: A + v,
        lambda v: A - v,
        lambda v: A @ v.T,
        lambda v: np.matmul(v, A.T),
        lambda v: np.float32(2) * v,
        lambda v: np.add.reduce(v),
        lambda v: np.maximum.reduce(v, axis=1),
        lambda v: np.multiply.outer(v[0], v[1]),
        lambda v: np.add.accumulate(v),
        lambda v: np.maximum(v, 0),
        lambda v: np.clip(v, -1, 1),
        lambda v: A > v,
        lambda v: np.square(v),
        lambda v: np.einsum("ij,kj->ik", v, A),
        lambda v: np.linalg.norm(v),
        lambda v: np.expand_dims(v, 1),
        lambda v: np.dot(v, A.T),
        lambda v: np.sum(a=v),
        lambda v: np.argmax(v, axis=1),
        lambda v: np.abs(v),
        lambda v: np.zeros_like(v),
    ):
        y, z = f(x), f(A)
        assert isinstance(y, knet.KnetArray) and y.shape == z.shape, z
        np.testing.assert_allclose(y.numpy(), z, rtol=1e-5)
    assert np.shape(x) == (2, 3) and np.ndim(x) == 2 and np.size(x) == 6
    assert np.allclose(x, A) and np.array_equal(A, x)
    np.testing.assert_allclose(x, A)


def test_numpy_functions_are_differentiated():
    g = knet.grad(lambda w: np.sum(np.tanh(A @ w)))(knet.array(np.ones((3, 2), np.float32)))
    expected = A.T @ (1 - np.tanh(A @ np.ones((3, 2))) ** 2)
    np.testing.assert_allclose(g.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_numpy_functions_without_counterpart_are_named():
    x = knet.array(A)
    for f, name in (
        (lambda: np.fft.fft(x), "fft"),
        (lambda: np.nextafter(x, x), "nextafter"),
        (lambda: np.add.at(x, 0, 1), "add.at"),
        (lambda: np.histogram(x), "histogram"),
        (lambda: np.subtract.reduce(x), "subtract.reduce"),
    ):
        with pytest.raises(TypeError, match=name):
            f()
    a = A.copy()
    with pytest.raises(TypeError, match="out"):
        np.add(x, x, out=a)
    with pytest.raises(TypeError, match="a = a \\+ x"):
        a += x
