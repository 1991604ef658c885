"""Batching: independent operations of one signature run as one, and nothing but the rounding changes.

Every program is compared with the same in NumPy (values) and with central differences in float64 (gradients), in sizes at
which the planner stacks by copying (small) and in place (more than 64 KiB)."""
import re

import numpy as np
import pytest

import knet
from knet import grad, gradloss


def joined(f, *args):
    """What ran as one, from explain: [(count, operation), ...]."""
    text = knet.explain(f, *args).text("batched")
    return [(int(n), op) for n, op in re.findall(r"^(\d+) of (\w+) .* run as one$", text, re.M)]


def check(loss, w, *args, rtol=1e-5, n=12):
    """The gradient of loss against central differences along random directions."""
    d, value = gradloss(loss)(w, *args)
    rng = np.random.default_rng(0)
    for _ in range(3):
        u = [rng.standard_normal(a.shape) for a in w]
        h = 1e-5
        up, down = (float(knet.value(loss([knet.array(np.asarray(a) + s * h * b) for a, b in zip(w, u)], *args)))
                    for s in (1, -1))
        exact = sum(float((np.asarray(a) * b).sum()) for a, b in zip(d, u))
        assert exact == pytest.approx((up - down) / (2 * h), rel=rtol, abs=1e-7)
    again, same = gradloss(loss)(w, *args)
    assert float(same) == float(value)
    for a, b in zip(d, again):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def weights(rng, *shapes):
    return [knet.array(0.5 * rng.standard_normal(s) / np.sqrt(s[0])) for s in shapes]


def lstm(w, xs, ys, hidden):
    h = c = knet.zeros((xs[0].shape[0], hidden), dtype="float64")
    total = 0
    for x, y in zip(xs, ys):
        gates = knet.concatenate([x, h], axis=1) @ w[0] + w[1]
        f, i, o, g = (gates[:, k * hidden:(k + 1) * hidden] for k in range(4))
        c = knet.sigm(f) * c + knet.sigm(i) * knet.tanh(g)
        h = knet.sigm(o) * knet.tanh(c)
        total = total + knet.nll(h @ w[2] + w[3], y)
    return total / len(xs)


def lstm_numpy(w, xs, ys, hidden):
    def sigm(x):
        return 1 / (1 + np.exp(-x))
    h = c = np.zeros((xs[0].shape[0], hidden))
    total = 0
    for x, y in zip(xs, ys):
        f, i, o, g = np.split(np.concatenate([x, h], 1) @ w[0] + w[1], 4, 1)
        c = sigm(f) * c + sigm(i) * np.tanh(g)
        h = sigm(o) * np.tanh(c)
        z = h @ w[2] + w[3]
        z = z - z.max(1, keepdims=True)
        total -= np.mean(np.take_along_axis(z - np.log(np.exp(z).sum(1, keepdims=True)), y[:, None], 1))
    return total / len(xs)


@pytest.mark.parametrize("steps, batch, hidden, features", [(3, 2, 3, 2), (9, 4, 5, 3), (12, 24, 40, 16), (10, 7, 64, 70)])
def test_lstm(steps, batch, hidden, features):
    rng = np.random.default_rng(steps)
    w = weights(rng, (features + hidden, 4 * hidden), (4 * hidden,), (hidden, 11), (11,))
    xs = [rng.standard_normal((batch, features)) for _ in range(steps)]
    ys = [rng.integers(0, 11, batch) for _ in range(steps)]
    expected = lstm_numpy([np.asarray(a) for a in w], xs, ys, hidden)
    kx, ky = [knet.array(x) for x in xs], [knet.array(y) for y in ys]
    assert float(lstm(w, kx, ky, hidden)) == pytest.approx(expected, rel=1e-12)
    check(lstm, w, kx, ky, hidden)


def test_lstm_is_batched_outside_its_recurrence():
    rng = np.random.default_rng(0)
    w = weights(rng, (8 + 16, 64), (64,), (16, 11), (11,))
    xs = [knet.array(rng.standard_normal((4, 8))) for _ in range(20)]
    ys = [knet.array(rng.integers(0, 11, 4)) for _ in range(20)]
    done = joined(grad(lstm), w, xs, ys, 16)
    assert (20, "matmul") in done and (20, "exp") in done  # x @ w[:n] of all steps; the softmax of all steps
    text = knet.explain(grad(lstm), w, xs, ys, 16).text("batched")
    assert "20 products (8, 64) added up as one" in text and "20 products (16, 11) added up as one" in text


@pytest.mark.parametrize("hidden", [4, 96])
def test_embedding_and_plain_recurrence(hidden):
    rng = np.random.default_rng(hidden)
    w = weights(rng, (13, hidden), (hidden, hidden), (hidden, hidden), (hidden,), (hidden, 13))
    words = [knet.array(rng.integers(0, 13, 9)) for _ in range(14)]

    def loss(w, words):
        h, total = knet.zeros((9, hidden), dtype="float64"), 0
        for x, y in zip(words, words[1:]):
            h = knet.tanh(w[0][x] @ w[1] + h @ w[2] + w[3])
            total = total + knet.nll(h @ w[4], y)
        return total

    check(loss, w, words)
    assert (13, "gather") in joined(grad(loss), w, words)


def looked_up(e, w, i):
    return knet.tanh(e[i] @ w).sum()


@pytest.mark.parametrize("rows, inner, times", [(7, 40, 14), (7, 40, 100), (3, 64, 6), (5, 2, 300), (1, 33, 9)])
def test_products_of_rows_that_occur_often(rows, inner, times):
    """Each row of a small table goes through a product once, and the gradients are those of the rows one by one."""
    rng = np.random.default_rng(times)
    e, w = weights(rng, (rows, inner), (inner, 12))
    i = rng.integers(-rows, rows, times)
    ki = knet.array(i)
    check(lambda w: looked_up(w[0], w[1], ki), [e, w])
    assert np.array_equal((e[ki] @ w).numpy(), (e @ w).numpy()[i])
    text = knet.explain(grad(lambda w: looked_up(w[0], w[1], ki)), [e, w]).text("batched")
    assert f"float64({rows}, 12) = matmul" in text and f"float64({times}, 12) = matmul" not in text
    assert (f"float64({inner}, {rows}) = transpose" in text) == (inner >= 32)


def test_a_row_that_is_not_looked_up_adds_nothing():
    rng = np.random.default_rng(1)
    e, w = rng.standard_normal((4, 32)), rng.standard_normal((32, 40))
    e[2] = np.inf
    i = knet.array(np.array([0, 1, 3] * 5))
    de, dw = grad(lambda p: looked_up(p[0], p[1], i))([knet.array(e), knet.array(w)])
    assert np.isfinite(dw.numpy()).all() and not de.numpy()[2].any() and np.abs(de.numpy()[[0, 1, 3]]).min() > 0


def test_rows_that_do_not_exist():
    e, w = knet.ones((3, 32)), knet.ones((32, 4))
    with pytest.raises(IndexError, match="index 3 is out of range for axis 0 of extent 3"):
        (e[knet.array([0, 1, 2, 0, 1, 2, 3])] @ w).numpy()


def random_tree(rng, leaves):
    if leaves == 1:
        return int(rng.integers(0, 50))
    k = int(rng.integers(1, leaves))
    return random_tree(rng, k), random_tree(rng, leaves - k)


def encode(w, t):
    if isinstance(t, int):
        return w[0][t]
    return knet.tanh(w[1] @ encode(w, t[0]) + w[2] @ encode(w, t[1]) + w[3])


@pytest.mark.parametrize("seed", range(6))
def test_trees(seed):
    rng = np.random.default_rng(seed)
    w = weights(rng, (50, 6), (6, 6), (6, 6), (6,))
    t = random_tree(rng, int(rng.integers(2, 40)))
    check(lambda w: (encode(w, t) ** 2).sum() + encode(w, t)[0], w)


def test_trees_are_batched_by_level():
    rng = np.random.default_rng(0)
    w = weights(rng, (50, 8), (8, 8), (8, 8), (8,))
    t = (((1, 2), (3, 4)), ((5, 6), (7, 8)))
    done = joined(grad(lambda w: encode(w, t).sum()), w)
    products = [n for n, op in done if op == "matmul"]
    assert products[:4] == [4, 4, 2, 2]  # up; that of the root alone, and down again 14 products, most of them as a few
    assert sum(products[4:]) >= 11 and len(products) <= 8


@pytest.mark.parametrize("turned", [False, True])
def test_members_of_stacks_are_named(turned):
    """What is looked up at several places is one node, and so is what is put together of members of stacks."""
    rng = np.random.default_rng(3)
    w = weights(rng, (6, 50) if turned else (50, 6), (6, 6), (6, 6), (6,))
    t = random_tree(rng, 25)

    def loss(w):
        return (encode([w[0].T if turned else w[0], *w[1:]], t) ** 2).sum()

    check(loss, w)
    text = knet.explain(grad(loss), w).text("batched")
    assert text.count("= slices(") == 2 and 10 < text.count("= splice(") < 50 and text.count("= slice(") < 25
    assert "= concatenate(" not in text and text.count("\n") < 320


def rows_of_a_tree(w, t):
    """The same tree of rows: matrices of one row."""
    if isinstance(t, int):
        return w[0][t:t + 1]
    return knet.tanh(rows_of_a_tree(w, t[0]) @ w[1] + rows_of_a_tree(w, t[1]) @ w[2] + w[3])


def test_trees_of_rows_and_of_vectors():
    """Both forms are batched alike: what lies between the products of a recurrence is left to them."""
    rng = np.random.default_rng(2)
    w = [knet.array(a.numpy().astype("float32")) for a in weights(rng, (50, 64), (64, 64), (64, 64), (64,))]
    t = random_tree(rng, 25)
    of_vectors = gradloss(lambda w: (encode(w, t) ** 2).sum())
    of_rows = gradloss(lambda w: (rows_of_a_tree(w, t) ** 2).sum())
    turned = [w[0], w[1].T, w[2].T, w[3]]
    for a, b in zip(of_vectors(w)[0], of_rows(turned)[0]):
        np.testing.assert_allclose(a.numpy(), (b.T if b.shape == (64, 64) else b).numpy(), rtol=1e-4, atol=1e-5)
    kernels = [knet.explain(f, x).runs[0]["kernels"] for f, x in [(of_vectors, w), (of_rows, turned)]]
    assert max(kernels) <= 90, kernels


@pytest.mark.parametrize("form", ["column", "row"])
def test_vectors(form):
    """Products of a matrix and vectors: independent ones run as one, outer products add up to one product."""
    rng = np.random.default_rng(1)
    w = weights(rng, (7, 5), (7,)) if form == "column" else weights(rng, (5, 7), (7,))
    xs = [knet.array(rng.standard_normal(5)) for _ in range(6)]

    def loss(w):
        ys = [knet.tanh((w[0] @ x if form == "column" else x @ w[0]) + w[1]) for x in xs]
        return sum((y * y).sum() * (k + 1) for k, y in enumerate(ys)) + ys[0] @ ys[1]

    check(loss, w)
    text = knet.explain(grad(loss), w).text("batched")
    assert "6 of matmul float64(7,) run as one" in text
    assert f"6 products {'(7, 5)' if form == 'column' else '(5, 7)'} added up as one" in text


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_one_layer_for_many(rows):
    """The same layer for values of different origin: leaves, results, views, the same one twice."""
    rng = np.random.default_rng(rows)
    w = weights(rng, (64, 64), (64,))
    xs = [knet.array(rng.standard_normal((rows, 64))) for _ in range(4)]

    def loss(w, xs):
        parts = [*xs, xs[0] * 2, xs[1][::-1], knet.concatenate(xs)[rows:2 * rows], xs[0]]
        ys = [knet.relu(x @ w[0] + w[1]) for x in parts]
        return sum((y * y).sum() * (k + 1) for k, y in enumerate(ys)) + (ys[0] @ w[0]).sum()

    check(loss, w, xs)
    got = float(loss(w, xs))
    a, b, x = np.asarray(w[0]), np.asarray(w[1]), [np.asarray(x) for x in xs]
    ys = [np.maximum(p @ a + b, 0) for p in (*x, x[0] * 2, x[1][::-1], x[1], x[0])]
    assert got == pytest.approx(sum((y * y).sum() * (k + 1) for k, y in enumerate(ys)) + (ys[0] @ a).sum(), rel=1e-12)


def test_results_that_are_kept_and_reused():
    """Members of a group that are results of the plan, or read again in another shape or transposed."""
    rng = np.random.default_rng(3)
    w = knet.array(rng.standard_normal((48, 48)))
    xs = [knet.array(rng.standard_normal((16, 48))) for _ in range(8)]
    ys = [x @ w for x in xs]
    kept, turned = ys[3], ys[5].T
    stack = knet.stack(ys)
    total = sum(y.sum() for y in ys)
    n = [np.asarray(x) @ np.asarray(w) for x in xs]
    assert np.allclose(np.asarray(kept), n[3], rtol=1e-12)
    assert np.allclose(np.asarray(turned), n[5].T, rtol=1e-12)
    assert np.allclose(np.asarray(stack), np.stack(n), rtol=1e-12)
    assert float(total) == pytest.approx(sum(a.sum() for a in n), rel=1e-9)


def test_concatenation_in_place_of_values_read_elsewhere():
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal((200, 100)) for _ in range(2))
    ka, kb = knet.array(a), knet.array(b)
    p, q = knet.tanh(ka), knet.exp(kb)
    along0, along1 = knet.concatenate([p, q, p]), knet.concatenate([p * 2, q + 1, ka], axis=1)
    again = p + q
    p2, q2 = np.tanh(a), np.exp(b)
    assert np.allclose(np.asarray(along0), np.concatenate([p2, q2, p2]), rtol=1e-12)
    assert np.allclose(np.asarray(along1), np.concatenate([p2 * 2, q2 + 1, a], 1), rtol=1e-12)
    assert np.allclose(np.asarray(again), p2 + q2, rtol=1e-12)
    nested = knet.concatenate([knet.concatenate([p * 3, q * 3], axis=1), knet.concatenate([q, p], axis=1)])
    assert np.allclose(np.asarray(nested), np.block([[p2 * 3, q2 * 3], [q2, p2]]), rtol=1e-12)


def test_thread_counts_give_the_same_bits():
    rng = np.random.default_rng(5)
    w = [knet.array(a.numpy().astype("float32")) for a in weights(rng, (64 + 64, 256), (256,), (64, 11), (11,))]
    xs = [knet.array(rng.standard_normal((32, 64)).astype("float32")) for _ in range(16)]
    ys = [knet.array(rng.integers(0, 11, 32)) for _ in range(16)]

    def loss(w):
        h = c = knet.zeros((32, 64))
        total = 0
        for x, y in zip(xs, ys):
            gates = knet.concatenate([x, h], axis=1) @ w[0] + w[1]
            f, i, o, g = (gates[:, k * 64:(k + 1) * 64] for k in range(4))
            c = knet.sigm(f) * c + knet.sigm(i) * knet.tanh(g)
            h = knet.sigm(o) * knet.tanh(c)
            total = total + knet.nll(h @ w[2] + w[3], y)
        return total

    before, seen = knet.config.threads, []
    try:
        for n in (1, 2, 3, 4, 7):
            knet.config.threads = n
            seen.append([np.asarray(d).tobytes() for d in grad(loss)(w)])
    finally:
        knet.config.threads = before
    assert all(s == seen[0] for s in seen)


@pytest.mark.parametrize("rows, features", [(3, 5), (9, 6), (12, 4000)])  # of 4000: slices of 32 kB are not kept for it
def test_slices_that_are_added_up(rows, features):
    """Rows of a table, some of them twice, at places that are data or, in a table that is computed, structure."""
    rng = np.random.default_rng(rows)
    w = weights(rng, (20, features), (features, 6))
    at = [int(i) for i in rng.integers(0, 20, rows)] + [3, 3]

    def loss(w, given):
        table = w[0] if given else w[0] * 2
        return sum((knet.tanh(table[i] @ w[1]) * (k + 1)).sum() for k, i in enumerate(at))

    for given in (True, False):
        check(lambda w: loss(w, given), w)
        text = knet.explain(grad(lambda w: loss(w, given)), w).text("batched")
        assert (f"{len(at)} slices (1, {features}) added up as one" in text) == (features < 1000)


def test_slices_are_added_into_one_array_of_zeros():
    x = knet.array(np.arange(15.0).reshape(5, 3))
    loss = lambda x: sum((x[i] * x[i]).sum() * (i + 1) for i in range(5))
    recorded = knet.explain(grad(loss), x).text("differentiated")
    assert recorded.count("= slice_add(") == 10 and recorded.count("float64(5, 3) = broadcast_to(") == 1
    np.testing.assert_allclose(grad(loss)(x).numpy(), 2 * x.numpy() * np.arange(1, 6)[:, None])


def test_stacks_of_numbers():
    rng = np.random.default_rng(0)
    w = weights(rng, (5, 5), (5,))
    xs = [knet.array(rng.standard_normal(5)) for _ in range(6)]

    def loss(w):
        numbers = [knet.tanh(w[0] @ x + w[1]).sum() for x in xs]
        return sum(knet.tanh(a * b) for a, b in zip(numbers, numbers[1:])) + numbers[2]

    check(loss, w)


def test_views_of_stacks():
    """Members of stacks that were turned, one by one and several at a time."""
    rng = np.random.default_rng(0)
    w = weights(rng, (5, 5), (6, 5))
    xs = [knet.array(rng.standard_normal((5, 6))) for _ in range(6)]

    def loss(w):
        ys = [(w[0] @ x).T for x in xs]
        zs = [knet.tanh(y * w[1]) for y in ys]
        return sum((z.T @ z).sum() for z in zs[1:4]) + (zs[4].T * ys[0].T).sum() + knet.concatenate(ys[2:5]).sum(axis=0)[1]

    check(loss, w)
