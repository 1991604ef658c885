"""Memory stays where it is: over ten thousand training steps, changing shapes, exceptions in the middle of a call, exported
views, threads that end; and when nothing new happens, no plan, template or object is made."""
import gc
import os
import sys
import threading
import weakref

import numpy as np
import pytest

import knet
from knet import grad


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grows(step, warm, n, parts=4):
    """Bytes by which memory grows over n calls, after `warm` ones: the least over parts, since others' noise only adds."""
    for i in range(warm):
        step(i)
    least = None
    for p in range(parts):
        gc.collect()
        before = resident()
        for i in range(n // parts):
            step(warm + p * (n // parts) + i)
        gc.collect()
        grown = resident() - before
        least = grown if least is None else min(least, grown)
    return least * parts


pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm") or "asan" in os.environ.get("LD_PRELOAD", "") or
                                "tsan" in os.environ.get("LD_PRELOAD", ""), reason="needs to see the memory of the process")


def counts():
    gc.collect()
    knet._core.run()
    m = knet.memory()
    return {k: m[k] for k in ("live", "plans", "plan_bytes", "templates", "pending")}


def loss(w, x):
    return ((knet.relu(x @ w[0] + w[1]) @ w[2]) ** 2).mean()


def model():
    rng = np.random.default_rng(0)
    return [knet.array(rng.normal(size=s).astype("float32") * .1) for s in ((8, 16), (16,), (16, 3))]


def test_training_steps():
    w, f = model(), grad(loss)
    batches = [knet.array(np.random.default_rng(n).normal(size=(n, 8)).astype("float32")) for n in (3, 4, 5, 7, 9)]

    def step(i):
        for p, d in zip(w, f(w, batches[i % 5])):
            p -= 1e-3 * d
        if i % 7 == 0:
            loss(w, batches[0]).item()
    for i in range(200):
        step(i)
    before = counts()
    assert grows(step, 0, 10_000) <= 256 << 10
    assert counts() == before


def test_new_objects_at_every_step():
    """Functions, numbers and NumPy arrays are made anew: nothing may remember them."""
    w = model()

    def step(i):
        x = np.full((4, 8), i % 3, "float32")
        g = grad(lambda w, c: loss(w, x) * c)(w, 1 + i)
        w[0] = w[0] - 1e-4 * g[0]
    for i in range(200):
        step(i)
    before = counts()
    assert grows(step, 0, 2000) <= 256 << 10
    assert counts() == before


def test_ever_new_shapes():
    x = knet.array(np.ones((3000, 4), "float32"))
    limit, knet.config.plan_bytes = knet.config.plan_bytes, 1 << 20
    try:
        def step(i):
            n = 1 + i % 2500
            grad(lambda x: (knet.tanh(x[:n]) ** 2).sum())(x)
        assert grows(step, 3000, 2000) <= 1 << 20
        assert knet.memory()["plan_bytes"] <= 1 << 20
    finally:
        knet.config.plan_bytes = limit


def test_exceptions_in_the_middle():
    w = model()
    x = knet.array(np.ones((4, 8), "float32"))

    def boom(w):
        h = x @ w[0]
        h.sum().item()
        (h + 1)[knet.array([99])]
        raise KeyError("mine")

    def wrong(w):
        return (x @ w[2]).sum()

    def fails(w):
        return (x @ w[0])[knet.array([99])].sum()

    def step(i):
        for f, error in ((boom, KeyError), (wrong, ValueError), (fails, IndexError)):
            with pytest.raises(error):
                for g in grad(f)(w):
                    g.numpy()
        assert knet._core.depth() == 0
    for i in range(100):
        step(i)
    before = counts()
    assert grows(step, 0, 2000) <= 256 << 10
    assert counts() == before


def test_views_that_were_exported():
    w = knet.array(np.ones((100, 100), "float32"))

    def step(i):
        nonlocal w
        views = [np.asarray(w), memoryview(w), np.from_dlpack(w), w.numpy()]
        back = knet.from_dlpack(np.ones((50, 50), "float32"))
        w = w * 0.5 + back.sum() * 0
        views[i % 4] = None
    for i in range(100):
        step(i)
    before = counts()
    assert grows(step, 0, 4000) <= 256 << 10
    assert counts() == before


def test_counters_that_are_never_read():
    """What is pending is run from time to time, so that memory stays flat."""
    box = [knet.array(0.0)]

    def step(i):
        box[0] = box[0] + 1
    assert grows(step, 50_000, 100_000) <= 1 << 20
    assert box[0].item() == 150_000


def test_threads_that_end():
    x = knet.array(np.ones(100_000, "float32"))
    kept = []

    def work():
        y = (x * 2)[:10]
        kept[:] = [y, knet.ones(50_000) + 1]

    def step(i):
        t = threading.Thread(target=work)
        t.start()
        t.join()
        if i % 3 == 0:
            kept[0].numpy()
    for i in range(50):
        step(i)
    kept.clear()
    assert grows(step, 0, 800) <= 1 << 20
    kept.clear()
    (x + 1).numpy()
    assert knet.memory()["live"] < 3_000_000


def test_reference_counts_of_objects():
    x = knet.array([1.0, 2.0, 3.0])
    watched = [None, True, "float32", x.dtype, knet.KnetArray, np.dtype("float32"), knet.sum, (2, 3), np.float32]
    key = (slice(None), None, np.array([0, 1]))

    def calls():
        for _ in range(200):
            x.dtype, x.shape, x.sum(), x.astype("float32"), x.astype(np.float32), x.astype(np.dtype("float32")), knet.zeros((2, 3), dtype="float32")
            knet.sum(x, axis=None, keepdims=True)
            x[None], x[key[2]], x[0], repr(x), x.tolist(), x == x, x == "a", x.numpy(), np.asarray(x), x.copy(), -x, x.T, x + 1, 1 + x, x + np.ones(3)
            for wrong in (lambda: x + "a", lambda: x @ knet.ones((2, 2)), lambda: x[9], lambda: x.astype("no"), lambda: knet.sum(x, axis=7), lambda: x.nothing,
                          lambda: knet.sum(), lambda: knet.sum(x, nothing=1), lambda: setattr(x, "a", 1), lambda: x.reshape(7), lambda: knet.array(["a"])):
                with pytest.raises((TypeError, ValueError, IndexError, AttributeError)):
                    wrong()
    calls()
    before = [sys.getrefcount(o) for o in watched]
    calls()
    after = [sys.getrefcount(o) for o in watched]
    assert all(abs(a - b) < 50 for a, b in zip(before, after)), list(zip(watched, before, after))


def test_users_objects_are_let_go():
    class Mine:
        pass

    def run():
        mine = Mine()
        w = model()

        def f(w):
            mine.seen = w
            return loss(w, np.ones((2, 8), "float32"))
        grad(f)(w)
        return weakref.ref(mine), weakref.ref(w[0])
    refs = run()
    gc.collect()
    assert [r() for r in refs] == [None, None]


def test_a_primitive_makes_one_rule():
    @knet.primitive
    def cube(x):
        return x * x * x

    @cube.derivative
    def _(dy, y, x):
        return dy * 3 * x * x
    w = knet.array([1.0, 2.0])

    def step(i):
        grad(lambda w: cube(w).sum())(w)
    step(0)
    before, rule = counts(), sys.getrefcount(cube._derivative)
    assert grows(step, 100, 2000) <= 256 << 10
    assert counts() == before and abs(sys.getrefcount(cube._derivative) - rule) < 5
