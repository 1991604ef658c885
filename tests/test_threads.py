"""Several Python threads on the same arrays: what each computes is what it would compute alone. (Under a build with
KNET_SANITIZE=thread this is where races show.)"""
import os
import random
import threading
import time

import numpy as np
import pytest

import knet
from knet import grad


# The policy and priority of this process, before any of these tests.
BEFORE = (os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0)) if hasattr(
    os, "sched_getscheduler") else None


@pytest.fixture
def four_threads():
    before = knet.config.threads
    knet.config.threads = 4
    yield
    knet.config.threads = before


def together(work, n):
    errors = []

    def guarded(k):
        try:
            work(k)
        except BaseException as e:  # raised again below
            errors.append(e)
    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def test_everything_at_once(four_threads):
    rng = np.random.default_rng(0)
    x0, big0 = rng.normal(size=(120, 120)), rng.normal(size=(500, 500))
    x, big = knet.array(x0), knet.array(big0)
    shared = [(x * 2, x0 * 2), (knet.tanh(x), np.tanh(x0)), (x @ x, x0 @ x0), (big * 1.5, big0 * 1.5)]
    box = []  # values made in one thread and read in another, perhaps after that has ended

    def work(k):
        pick = random.Random(k)
        slope = grad(lambda w: (knet.tanh(w @ x) ** 2).sum())
        expected = None
        for _ in range(30):
            i = pick.randrange(len(shared))
            (a, a0), what = shared[i], pick.randrange(10)
            if what == 0:
                b = a + 1
                b[3:5] = 0
                assert np.isclose(b.sum().item(), (a0 + 1).sum() - (a0[3:5] + 1).sum())
            elif what == 1:
                assert np.isclose((a * k).sum().item(), a0.sum() * k)
            elif what == 2:
                g = slope(x).numpy()
                assert expected is None or np.array_equal(g, expected)
                expected = g
            elif what == 3:
                shared[i] = (a * 1.0, a0)
            elif what == 4:
                np.testing.assert_allclose((big @ big).sum().item(), (big0 @ big0).sum(), rtol=1e-6)
            elif what == 5:
                np.testing.assert_allclose(np.asarray(a), a0, rtol=1e-9, atol=1e-12)
            elif what == 6:
                box.append((knet.exp(a * 0.1), a0))
            elif what == 7:
                try:
                    b, b0 = box.pop()
                except IndexError:
                    continue
                np.testing.assert_allclose(b.numpy(), np.exp(b0 * 0.1), rtol=1e-9)
            elif what == 8:
                with pytest.raises(IndexError):
                    a[knet.array([5000])].numpy()
            else:
                assert np.array_equal(knet.sort(big, axis=0).numpy(), np.sort(big0, axis=0))
                knet.memory()
    for _ in range(2):
        together(work, 5)
    for b, b0 in box:
        np.testing.assert_allclose(b.numpy(), np.exp(b0 * 0.1), rtol=1e-9)


def test_recording_goes_on_while_another_thread_computes(four_threads):
    """A thread whose pending values are computed by another one waits, and nothing of what it records is lost."""
    x = knet.array(np.ones((400, 400)))
    box, done = [], threading.Event()

    def reader():
        while not done.is_set():
            if box:
                assert box[-1].sum().item() > 0

    t = threading.Thread(target=reader)
    t.start()
    try:
        y, n = x, 0.0
        for i in range(150):
            y = knet.tanh(y @ x * 1e-3) + 1
            box.append(y)
            n = n + y[0, 0]
            if i % 10 == 9:
                box.clear()
    finally:
        done.set()
        t.join()
    z, m = np.ones((400, 400)), 0.0
    for i in range(150):
        z = np.tanh(z @ np.ones((400, 400)) * 1e-3) + 1
        m += z[0, 0]
    assert np.isclose(n.item(), m)


def test_ever_new_shapes_in_several_threads(four_threads):
    """Plans and derivative templates are made in several threads at once."""
    x = knet.array(np.random.default_rng(1).normal(size=300))

    def work(k):
        for n in range(1, 120):
            g = grad(lambda x: (knet.softmax(x[:n + k]) * x[:n + k]).sum() + x.std())(x)
            assert g.shape == (300,)
    together(work, 4)


@pytest.mark.skipif(not BEFORE, reason="Linux only")
def test_threads_keep_their_policy_and_priority(four_threads):
    """The pool asks for short slices of time; that must not reach children, nor change anything else."""
    x = knet.array(np.ones((600, 600)))
    (x @ x).sum().item()
    policy, nice = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0)
    assert policy == BEFORE[0] and nice == BEFORE[1]
    tasks = [int(t) for t in os.listdir("/proc/self/task")]
    assert len(tasks) >= 4
    for t in tasks:
        assert os.sched_getscheduler(t) & ~os.SCHED_RESET_ON_FORK == policy
        assert os.getpriority(os.PRIO_PROCESS, t) == nice
    child = os.fork()
    if not child:
        os._exit(os.sched_getscheduler(0) != policy)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux")
def test_workers_may_run_wherever_the_process_may(four_threads):
    x = knet.array(np.ones((700, 700), "float32"))
    for _ in range(30):
        assert (x @ x).sum().item() == 700 ** 3
        time.sleep(0.005)  # they fall asleep, and are woken on CPUs of their own

    def work(k):  # a worker that sleeps again may be woken by one thread while another has not quite done so
        pick, end = random.Random(k), time.monotonic() + 1
        while time.monotonic() < end:
            (x[:200, :200] @ x[:200, :200]).sum().item()
            time.sleep(pick.random() * 1e-4)
    together(work, 3)
    time.sleep(0.1)
    everywhere = os.sched_getaffinity(0)
    assert all(os.sched_getaffinity(int(t)) == everywhere for t in os.listdir("/proc/self/task"))
