"""x[key] and x[key] = v are NumPy's, for every kind of key and their mixtures; errors come at the line that indexes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knet

KEYS = [
    0,
    -1,
    2,
    slice(None),
    slice(1, 3),
    slice(None, None, -1),
    slice(3, None, -2),
    slice(10, 20),
    slice(-2, None),
    ...,
    None,
    (),
    True,
    False,
    (0, 1),
    (0, 1, -1),
    (slice(None), 1),
    (slice(None), slice(1, 3)),
    (..., 0),
    (0, ..., -1),
    (None, 0),
    (0, None, 1),
    (None, ..., None),
    (slice(None, None, 2), slice(None, None, -1), 1),
    (slice(2, 2), 1),
    [0, 2],
    [-1, 0, 0],
    [],
    [[0, 1], [2, 3]],
    ([0, 2],),
    ([0, 1], [2, 0]),
    ([[0], [1]], [0, 2]),
    (slice(None), [0, 2]),
    (slice(1, 3), [0, 2]),
    ([0, 1], slice(None), [0, 1]),
    ([0, 1], slice(1, 2), 1),
    (0, slice(None), [0, 1]),
    (slice(None), 0, [0, 1]),
    (slice(None), [0, 1], 0),
    ([0, 1], None, [0, 1]),
    (None, [0, 1]),
    ([0, 1], None),
    (..., [0, 1]),
    ([0, 1], ..., [1, 0]),
    (slice(None), [[0, 1], [1, 2]], slice(None, None, -1)),
    ([1], 0, [1]),
    ([], slice(None)),
    (True, 0),
    (False, [0]),
    (0, True),
    (None, True, [0, 1]),
    (slice(None), True),
    ([0], False, slice(None)),
    [True, False, True, True],
    (slice(None), [True, False, True]),
    ([True, False, False, True], slice(1, 2), [0, 1]),
    np.int64(1),
    np.array(2),
    np.array([1, 3], np.uint8),
    (np.array([0, 1]), np.array([[2], [0]])),
    np.True_,
    np.arange(12).reshape(4, 3) % 2 == 0,
    np.zeros((4, 3), bool),
    (np.arange(12).reshape(4, 3) % 2 == 0, 0),
    (0, np.arange(6).reshape(3, 2) > 2),
    np.arange(24).reshape(4, 3, 2) % 5 == 0,
    (np.arange(12).reshape(4, 3) % 2 == 0, None, slice(None)),
    (np.array([True, False, True, False]), ..., np.array([1, 0])),
]


def base(dtype=np.float32):
    return np.arange(24, dtype=dtype).reshape(4, 3, 2)


def same(x, y):
    assert isinstance(x, knet.KnetArray)
    assert x.shape == y.shape and x.dtype == y.dtype
    np.testing.assert_array_equal(x.numpy(), y)


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_reading(key):
    same(knet.array(base())[key], base()[key])


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_assigning(key):
    for make in (
        lambda s: -1.5,
        lambda s: np.full((1,) + s, 7.0),
        lambda s: -np.arange(np.prod(s, dtype=int), dtype=np.float32).reshape(s),
        lambda s: np.float64(3),
    ):
        y = base()
        v = make(np.shape(y[key]))
        mask = isinstance(key, np.ndarray) and key.dtype == bool
        if np.ndim(v) > np.ndim(y[key]) and (mask or np.ndim(y[key]) == 0):
            v = v[0]  # here NumPy takes no leading dimension too many
        x = knet.array(y)
        old, handle = x.copy(), x
        x[key] = v
        y[key] = v
        same(x, y)
        assert handle is x
        same(old, base())


def as_knet(key):
    if isinstance(key, tuple):
        return tuple(map(as_knet, key))
    return knet.array(key) if isinstance(key, (list, np.ndarray)) and np.size(key) else key


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_index_arrays_of_ours(key):
    y = base()
    x = knet.array(y)
    same(x[as_knet(key)], y[key])
    x[as_knet(key)] = 5
    y[key] = 5
    same(x, y)


@st.composite
def indexed(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    block = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    items, used = [], 0
    rest = draw(st.booleans())
    while used < len(shape) and draw(st.integers(0, 5)):
        n = shape[used]
        kind = draw(st.sampled_from(["int", "slice", "slice", "array", "mask", "new", "rest"]))
        if kind == "int":
            items.append(draw(st.integers(-n, n - 1)))
        elif kind == "slice":
            end = st.one_of(st.none(), st.integers(-n - 1, n + 1))
            items.append(slice(draw(end), draw(end), draw(st.sampled_from([None, 1, 2, -1, -2, 3]))))
        elif kind == "array":
            s = block[draw(st.integers(0, len(block))) :]
            items.append(
                np.array(
                    draw(st.lists(st.integers(-n, n - 1), min_size=int(np.prod(s)), max_size=int(np.prod(s))))
                ).reshape(s)
            )
        elif kind == "mask":
            count = block[-1] if block else 1
            if count > n:
                continue
            m = np.zeros(n, bool)
            m[draw(st.permutations(range(n)))[:count]] = True
            items.append(m)
        elif kind == "new":
            items.append(None)
            continue
        else:
            if rest:
                rest = False
                items.append(...)
            continue
        used += 1
    return shape, tuple(items)


@settings(max_examples=300, deadline=None)
@given(indexed(), st.integers(0, 3))
def test_mixtures(case, how):
    shape, key = case
    y = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    x = knet.array(y)
    try:
        part = y[key]
    except IndexError:
        with pytest.raises(IndexError):
            x[key]
        return
    same(x[key], np.asarray(part))
    v = [
        9,
        -np.arange(part.size, dtype=np.float64).reshape(part.shape),
        np.ones((1,) + part.shape),
        np.full(part.shape[-1:], 2),
    ][how]
    x[key] = v
    y[key] = v if how != 2 else 1  # a leading dimension too many is not taken by NumPy for single elements and masks
    same(x, y)


@pytest.mark.parametrize(
    "key",
    [
        4,
        -5,
        (0, 3),
        (slice(None), -4),
        [0, 4],
        ([0], [3]),
        (0, 0, 0, 0),
        (..., ...),
        1.0,
        "a",
        [0.5],
        [[True, False]],
        np.ones(3, bool),
        ([0, 1], [0, 1, 2]),
        np.ones((4, 2), bool),
        (None, 4),
        np.array([1.0]),
    ],
    ids=repr,
)
def test_errors_at_the_line(key):
    x, y = knet.array(base()), base()
    with pytest.raises(IndexError):
        y[key]
    with pytest.raises(IndexError):
        x[key]
    with pytest.raises(IndexError):
        x[key] = 1
    same(x, base())


def test_index_of_ours_out_of_range_is_raised_when_used():
    x = knet.array([1.0, 2.0])
    y = x[knet.array([0, 5])]
    with pytest.raises(IndexError):
        y.tolist()


def test_assigned_values_must_fit():
    x = knet.array(base())
    for v in ([1.0, 2.0, 3.0], np.ones((2, 3, 2))):
        with pytest.raises(ValueError, match="broadcast"):
            x[0] = v
    same(x, base())
    x[0:0] = 5
    same(x, base())


def test_assigning_keeps_the_dtype():
    x = knet.array([1, 2, 3])
    x[1] = 7.9
    assert x.dtype == "int64" and x.tolist() == [1, 7, 3]
    with pytest.raises(OverflowError):
        knet.array([1], dtype="uint8")[0] = 256
    s = knet.array(1.0)
    s[()] = 2
    assert s.dtype == "float32" and (s + np.float32(1)).dtype == "float32" and not s._weak
    b = knet.array([True, False])
    b[1] = 2
    assert b.tolist() == [True, True]


def test_no_other_handle_changes():
    a = knet.array([1.0, 2.0, 3.0])
    part, copy, pending = a[:2], a.copy(), a * 1
    a[0] = 9
    a[1:] += 1
    assert a.tolist() == [9.0, 3.0, 4.0]
    assert part.tolist() == [1.0, 2.0] and copy.tolist() == [1.0, 2.0, 3.0] == pending.tolist()
    b = knet.array([0.0, 0.0])
    b[...] = part
    b[0] = 5
    assert part.tolist() == [1.0, 2.0] and b.tolist() == [5.0, 2.0]
    a[:] = a
    assert a.tolist() == [9.0, 3.0, 4.0]


def test_new_offsets_make_no_new_plan():
    x = knet.array(base())
    for i in range(4):
        (x[i, 1:3] * 2).tolist()
        x[[i, 0]].tolist()
        if i == 1:
            misses = knet.memory()["plan_misses"]
    assert knet.memory()["plan_misses"] == misses


def test_iteration_and_membership():
    x = knet.array(base())
    assert [r.tolist() for r in x] == base().tolist()
    assert len(x) == 4 and 5.0 in x and 99 not in x
    with pytest.raises(TypeError, match="iter"):
        iter(knet.array(1.0))
    with pytest.raises(TypeError):
        del x[0]


@pytest.mark.parametrize(
    "key",
    [
        0,
        slice(None, None, -2),
        [0, 0, 2],
        (slice(1, 3), [0, 0]),
        ([0, 0], slice(None), [1, 1]),
        np.arange(12).reshape(4, 3) % 2 == 0,
        (0, None, [1, 1]),
    ],
    ids=repr,
)
def test_gradients_add_up(key):
    y = base(np.float64)
    w = np.random.default_rng(0).normal(size=y[key].shape)
    g = knet.grad(lambda x: (x[key] * w).sum())(knet.array(y))
    expected = np.zeros_like(y)
    np.add.at(expected, key, w)
    np.testing.assert_allclose(g.numpy(), expected)


@pytest.mark.parametrize(
    "key", [0, slice(None, None, -2), [0, 2], (slice(1, 3), [0, 1]), np.arange(12).reshape(4, 3) % 2 == 0], ids=repr
)
def test_gradients_of_assignment(key):
    y = base(np.float64)

    def f(x, v):
        z = x * 2
        z[key] = v
        return (z * z).sum()

    v = np.full(y[key].shape, 3.0)
    dx, dv = knet.grad(f, argnum=(0, 1))(knet.array(y), knet.array(v))
    expected = 8 * y
    expected[key] = 0
    np.testing.assert_allclose(dx.numpy(), expected)
    np.testing.assert_allclose(dv.numpy(), 2 * v)
