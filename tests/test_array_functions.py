"""Functions of several arrays, and those that make arrays: against NumPy."""
import numpy as np
import pytest

import knet
from knet.ops.define import REGISTRY

RNG = np.random.default_rng(0)


def values(x):
    return tuple(map(values, x)) if isinstance(x, (tuple, list)) else np.asarray(x.numpy())


def draw(*shape):
    return RNG.standard_normal(shape)


def same(got, expected):
    got = values(got)
    if isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for g, e in zip(got, expected):
            same_array(g, np.asarray(e))
    else:
        same_array(got, np.asarray(expected))


def same_array(got, expected):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


A, B, V = draw(2, 3), draw(2, 3), draw(3)


@pytest.mark.parametrize(
    "name, args",
    [
        ("concatenate", ([A, B],)),
        ("concatenate", ([A, B], 1)),
        ("concatenate", ([A, V], None)),
        ("concatenate", ([A, np.arange(6).reshape(2, 3)],)),
        ("stack", ([A, B],)),
        ("stack", ([A, B], -1)),
        ("hstack", ([A, B],)),
        ("hstack", ([V, V],)),
        ("vstack", ([A, V],)),
        ("dstack", ([A, B],)),
        ("column_stack", ([V, draw(3, 2)],)),
        ("split", (draw(6, 2), 3)),
        ("split", (draw(2, 6), [1, 1, 4], 1)),
        ("array_split", (draw(7, 2), 3)),
        ("array_split", (draw(2, 2), 3, 1)),
        ("meshgrid", (V, draw(2), draw(4))),
        ("broadcast_arrays", (A, V, draw(4, 1, 1))),
        ("transpose", (A,)),
        ("transpose", (draw(2, 3, 4), (1, -1, 0))),
        ("matmul", (V, V)),
        ("matmul", (A, V)),
        ("matmul", (draw(2), A)),
        ("matmul", (draw(4, 2, 3), V)),
        ("matmul", (draw(2), draw(4, 2, 3))),
        ("matmul", (A, np.arange(12).reshape(3, 4))),
        ("sort", (draw(3, 5),)),
        ("sort", (draw(3, 5), 0)),
        ("sort", (draw(3, 5), None)),
        ("take_along_axis", (draw(3, 5), np.array([[1, -1]]), 1)),
        ("take_along_axis", (A, np.array([4, 0]), None)),
        ("tensordot", (draw(2, 3, 4), draw(4, 3, 2), ([1, 2], [1, 0]))),
    ],
)
def test_against_numpy(name, args):
    same(getattr(knet, name)(*args), getattr(np, name)(*args))


@pytest.mark.parametrize(
    "subscripts, shapes",
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("ij,jk->ki", [(2, 3), (3, 4)]),
        ("ij->ji", [(2, 3)]),
        ("ij", [(2, 3)]),
        ("ji", [(2, 3)]),
        ("ij->", [(2, 3)]),
        ("ij->j", [(2, 3)]),
        ("ii", [(3, 3)]),
        ("ii->i", [(3, 3)]),
        ("iij->ij", [(3, 3, 2)]),
        ("iji->j", [(3, 2, 3)]),
        ("iii->i", [(3, 3, 3)]),
        ("i,j->ij", [(2,), (3,)]),
        ("i,i", [(3,), (3,)]),
        ("i,i->i", [(3,), (3,)]),
        ("ij,ij->ij", [(2, 3), (2, 3)]),
        ("ij,ij", [(2, 3), (2, 3)]),
        ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)]),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...ij,...jk->...ik", [(5, 2, 3), (5, 3, 4)]),
        ("...ij,jk", [(6, 5, 2, 3), (3, 4)]),
        ("...ij,...jk", [(6, 1, 2, 3), (5, 3, 4)]),
        ("...i->...", [(2, 3, 4)]),
        ("i...->...i", [(2, 3, 4)]),
        ("...,...", [(2, 3), (3,)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("ij,jk,kl", [(2, 3), (3, 4), (4, 5)]),
        ("abc,cd,be->ade", [(2, 3, 4), (4, 5), (3, 6)]),
        ("i,ij,j", [(2,), (2, 3), (3,)]),
        ("a,b,c->cab", [(2,), (3,), (4,)]),
        (" i j , j k -> i k ", [(2, 3), (3, 4)]),
        ("ik,jk->", [(2, 3), (4, 3)]),
        ("ij,kl->ijkl", [(2, 3), (4, 5)]),
        ("Ab,bC->AC", [(2, 3), (3, 4)]),
        (",ij->ij", [(), (2, 3)]),
        ("ij,j->i", [(2, 3), (1,)]),
        ("ij,jk->ik", [(0, 3), (3, 2)]),
        ("ij,jk->ik", [(2, 0), (0, 3)]),
        ("iij,jkk->ik", [(2, 2, 3), (3, 4, 4)]),
    ],
)
def test_einsum(subscripts, shapes):
    arrays = [draw(*s) for s in shapes]
    same(knet.einsum(subscripts, *arrays), np.einsum(subscripts, *arrays))


@pytest.mark.parametrize(
    "subscripts, shapes",
    [
        ("ij,jk", [(2, 3)]),
        ("ij", [(2, 3, 4)]),
        ("ij->k", [(2, 3)]),
        ("ij->ii", [(2, 3)]),
        ("ij,jk", [(2, 3), (4, 5)]),
        ("i1", [(2, 3)]),
        ("i.j", [(2, 3)]),
    ],
)
def test_einsum_errors(subscripts, shapes):
    with pytest.raises(ValueError, match=r"^\[einsum\] "):
        knet.einsum(subscripts, *[draw(*s) for s in shapes])


@pytest.mark.parametrize(
    "got, expected",
    [
        (lambda: knet.arange(5), np.arange(5)),
        (lambda: knet.arange(2, 12, 3), np.arange(2, 12, 3)),
        (lambda: knet.arange(5, 0, -2), np.arange(5, 0, -2)),
        (lambda: knet.arange(3, 3), np.arange(0)),
        (lambda: knet.arange(0.0, 1.0, 0.25), np.arange(0, 1, 0.25, "float32")),
        (lambda: knet.arange(4, dtype="float64"), np.arange(4.0)),
        (lambda: knet.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype="float32")),
        (lambda: knet.linspace(1, 2, 4, endpoint=False, dtype="float64"), np.linspace(1, 2, 4, endpoint=False)),
        (lambda: knet.linspace(3, 4, 1, dtype="float64"), np.linspace(3, 4, 1)),
        (lambda: knet.zeros((2, 3)), np.zeros((2, 3), "float32")),
        (lambda: knet.ones(3, "int32"), np.ones(3, "int32")),
        (lambda: knet.full((2,), 7), np.full(2, 7)),
        (lambda: knet.full((), True), np.full((), True)),
        (lambda: knet.full((2, 3), V), np.full((2, 3), V)),
        (lambda: knet.eye(3, 4, 1), np.eye(3, 4, 1, "float32")),
        (lambda: knet.identity(2), np.eye(2, dtype="float32")),
        (lambda: knet.tri(3, 4, -1), np.tri(3, 4, -1, "float32")),
        (lambda: knet.zeros_like(A), np.zeros_like(A)),
        (lambda: knet.full_like(A, 2, dtype="int8"), np.full_like(A, 2, dtype="int8")),
        (
            lambda: knet.one_hot(np.array([0, 2, 5, -1]), 3),
            np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]], "float32"),
        ),
        (lambda: knet.one_hot(np.array([[0, 1]]), 2, axis=0), np.array([[[1, 0]], [[0, 1]]], "float32")),
        (lambda: knet.topk(np.array([3, 1, 2]), 2), (np.array([3, 2]), np.array([0, 2]))),
    ],
)
def test_made(got, expected):
    same(got(), expected)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: knet.concatenate([]), r"\[concatenate\] needs at least one array"),
        (lambda: knet.stack([A, V]), r"\[stack\] arrays must have one shape"),
        (lambda: knet.split(draw(7), 3), r"\[split\] 7 elements"),
        (lambda: knet.squeeze(A, 0), r"\[squeeze\]"),
        (lambda: knet.expand_dims(A, 5), r"\[expand_dims\]"),
        (lambda: knet.matmul(V, draw(4)), r"\[matmul\] inner dimensions differ: \(3,\) @ \(4,\)"),
        (lambda: knet.matmul(2.0, V), r"\[matmul\] a scalar"),
        (lambda: knet.topk(V, 4), r"\[topk\] k=4"),
        (lambda: knet.pad(V, -1), r"\[pad\] negative"),
        (lambda: knet.pad(V, 1, "mirror"), r"\[pad\] no mode"),
        (lambda: knet.tensordot(A, draw(3, 2)), r"\[tensordot\] summed"),
        (lambda: knet.roll(A, (1, 2), 0), r"\[roll\]"),
        (lambda: knet.mat(A, 3), r"\[mat\] dims=3"),
        (lambda: knet.moveaxis(A, (0, 1), 0), r"\[moveaxis\]"),
    ],
)
def test_messages(call, words):
    with pytest.raises((ValueError, IndexError), match="^(" + words + ")"):
        call()


def test_random_functions():
    knet.seed(1)
    u = values(knet.uniform(2, 5, (1000,)))
    assert u.dtype == np.float32 and 2 <= u.min() and u.max() < 5 and abs(u.mean() - 3.5) < 0.1
    z = values(knet.normal(1, 2, (2000,), "float64"))
    assert z.dtype == np.float64 and abs(z.mean() - 1) < 0.2 and abs(z.std() - 2) < 0.2
    i = values(knet.integers(-3, 4, (1000,)))
    assert i.dtype == np.int64 and set(i) == set(range(-3, 4))
    p = values(knet.permutation(100))
    assert sorted(p) == list(range(100)) and list(p) != sorted(p)
    assert sorted(values(knet.permutation(V))) == sorted(V)
    b = values(knet.bernoulli(0.3, (2000,)))
    assert b.dtype == bool and abs(b.mean() - 0.3) < 0.05
    c = values(knet.categorical(probs=np.array([[0.2, 0.8], [1.0, 0.0]]), shape=(1000,)))
    assert c.shape == (1000, 2) and abs(c[:, 0].mean() - 0.8) < 0.06 and not c[:, 1].any()
    assert sorted(values(knet.choice(5, 5, replace=False))) == list(range(5))
    assert set(values(knet.choice(np.array([10, 20, 30]), 50, p=np.array([0.5, 0.5, 0])))) == {10, 20}
    knet.seed(1)
    np.testing.assert_array_equal(values(knet.uniform(2, 5, (1000,))), u)


@pytest.mark.parametrize("name, dtype, tolerance", [
    ("random_bits", "uint32", 0), ("random_bits", "uint64", 0), ("random_uniform", "float32", 0),
    ("random_uniform", "float64", 0), ("random_normal", "float32", 1e-5), ("random_normal", "float64", 1e-12)])
@pytest.mark.parametrize("seed, counter", [(0, 0), (7, 1 << 40), ((1 << 64) - 1, (1 << 64) - 1)])
def test_generator(name, dtype, tolerance, seed, counter):
    """The engine's numbers are those of the definition, for any length. (float32 normals near 0 have the absolute error
    of 1 - u in float32.)"""
    entry = REGISTRY[name]
    for shape in ((0,), (1,), (3, 5), (100003,)):
        got = values(entry(seed, counter, shape=shape, dtype=dtype))
        expected = entry.reference(seed, counter, shape=shape, dtype=dtype)
        assert got.dtype == expected.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
