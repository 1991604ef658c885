"""Steps whose results nobody reads yet run beside the recording of the next: nobody may notice but by the clock."""
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import knet

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX threads")


@pytest.fixture(autouse=True)
def two_threads():
    before = knet.config.threads
    knet.config.threads = 2
    yield
    knet.config.threads = before


def model(seed=0):
    """Weights, and a step of a perceptron that returns its loss: long enough to be handed over to a thread that sleeps."""
    rng = np.random.default_rng(seed)
    w = [knet.array(rng.normal(scale=0.1, size=s).astype("float32")) for s in ((200, 60), (60,), (60, 10), (10,))]
    x = knet.array(rng.normal(size=(256, 200)).astype("float32"))
    y = knet.array(rng.integers(0, 10, 256))

    @knet.gradloss
    def lossgradient(w, x, y):
        return knet.nll(knet.relu(x @ w[0] + w[1]) @ w[2] + w[3], y)

    def step(labels=y):
        dw, loss = lossgradient(w, x, labels)
        for i in range(len(w)):
            w[i] -= 0.1 * dw[i]
        return loss

    return w, step


def launched():
    return knet.memory()["launched"]


def until_launched(step, most=2000):
    """Takes steps until they are handed over, one after the other: how many, and the last loss, still on its way."""
    before = launched()
    for n in range(50, most, 50):
        for _ in range(50):
            step()
        if launched() > before:
            for _ in range(50):  # memory() has waited
                loss = step()
            return n + 50, loss
    raise AssertionError(f"none of {most} steps was handed over")


def plain(steps, seed=0):
    """The losses and weights after so many steps, each read before the next."""
    w, step = model(seed)
    losses = [step().item() for _ in range(steps)]
    return losses, [a.numpy() for a in w]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_same_bits_as_one_after_the_other():
    w, step = model()
    n, loss = until_launched(step)
    losses = [step() for _ in range(100)]
    expected, weights = plain(n + 100)
    assert loss.item() == expected[n - 1]
    assert [v.item() for v in losses] == expected[n:]
    assert same([a.numpy() for a in w], weights)


def test_steps_that_are_read_at_once_are_hardly_ever_handed_over():
    w, step = model()
    until_launched(step)
    before = launched()
    for _ in range(1000):
        step().item()
    assert launched() - before < 20
    until_launched(step, 20000)


def test_one_thread_hands_nothing_over():
    knet.config.threads = 1
    _, step = model()
    before = launched()
    for _ in range(500):
        step()
    assert launched() == before


@pytest.mark.parametrize("read", [
    lambda a: a.numpy(), np.asarray, lambda a: np.array(memoryview(a)), np.from_dlpack, lambda a: np.array(a.tolist(), a.dtype),
    lambda a: np.array([[a[i, j].item() for j in range(a.shape[1])] for i in range(a.shape[0])], a.dtype),
    lambda a: np.array(__import__("pickle").loads(__import__("pickle").dumps(a))),
    lambda a: np.array(__import__("copy").deepcopy(a)), lambda a: (a + 0).numpy(), lambda a: knet.array(a).numpy()])
def test_every_way_to_read_waits(read):
    w, step = model()
    n, _ = until_launched(step)
    for k in range(1, 4):
        for _ in range(20):
            step()
        assert np.array_equal(read(w[2]), plain(n + 20 * k)[1][2])


def test_an_old_result_and_a_view_of_it_stay():
    w, step = model()
    until_launched(step)
    old, view = w[0][:], np.asarray(w[0])
    seen = view.copy()
    for _ in range(50):
        step()
    assert np.array_equal(view, seen) and np.array_equal(old.numpy(), seen)
    assert not np.array_equal(w[0].numpy(), seen)


def test_a_bad_label_is_told_at_once_and_nothing_is_lost():
    w, step = model()
    n, _ = until_launched(step)
    for _ in range(10):
        step()
    with pytest.raises(IndexError, match="10 is out of range"):
        step(knet.array(np.full(256, 10)))
    assert same([a.numpy() for a in w], plain(n + 10)[1])
    for _ in range(10):
        loss = step()
    assert loss.item() == plain(n + 20)[0][-1]


def test_a_label_is_checked_before_weights_are_updated_in_place():
    # The update of the step before runs in the program that meets the bad label.
    for bad in (10, -11):
        w, step = model()
        for _ in range(20):
            step()
        with pytest.raises(IndexError):
            step(knet.array(np.full(256, bad)))
        assert same([a.numpy() for a in w], plain(20)[1])


def test_labels_that_are_computed():
    rng = np.random.default_rng(0)
    table, scores = knet.array(rng.normal(size=(30, 8))), knet.array(rng.normal(size=(50, 30)))

    def step(table, rows):
        return knet.grad(lambda t: (t[rows] ** 2).sum())(table)

    for shift in range(3):
        rows = knet.argmax(scores, axis=1) - shift  # negative ones count from the end
        got = step(table, rows)
        at = np.asarray(scores).argmax(1) - shift
        expected = np.zeros((30, 8))
        np.add.at(expected, at, 2 * np.asarray(table)[at])
        np.testing.assert_allclose(got, expected)
    rows = knet.argmax(scores, axis=1) + 25
    with pytest.raises(IndexError):
        np.asarray(step(table, rows))
    np.testing.assert_allclose(table.sum().item(), np.asarray(table).sum())


def test_memory_stays_flat():
    w, step = model()
    until_launched(step)
    live = knet.memory()["live"]
    for _ in range(3000):
        step()
    assert knet.memory()["live"] == live


def test_a_child_of_a_fork_goes_on():
    w, step = model()
    n, _ = until_launched(step)
    child = os.fork()
    if child == 0:
        ok = False
        try:
            ok = step().item() == plain(n + 1)[0][-1] and same([a.numpy() for a in w], plain(n + 1)[1])
            for _ in range(300):
                loss = step()
            ok &= loss.item() == plain(n + 301)[0][-1]
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert step().item() == plain(n + 1)[0][-1]


def test_threads_of_python_at_once():
    bad = []

    def work(seed):
        w, step = model(seed)
        expected, weights = plain(600, seed)
        losses = [step() for _ in range(600)]
        if [v.item() for v in losses] != expected or not same([a.numpy() for a in w], weights):
            bad.append(seed)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not bad


def test_a_value_on_its_way_is_read_by_another_thread():
    w, step = model()
    n, loss = until_launched(step)
    got = []
    t = threading.Thread(target=lambda: got.append(loss.item()))
    t.start()
    t.join()
    assert got == plain(n)[0][-1:]


def test_memory_that_belongs_to_others_is_not_used_behind_their_back():
    theirs = np.ones((150, 150), "float32")
    for x, handed_over in ((knet.array(theirs), True), (knet.from_dlpack(theirs), False)):
        w = knet.array(theirs)
        before = launched()
        for _ in range(300):
            d = knet.grad(lambda w: ((w @ x) ** 2).sum())(w)
        del d
        assert (launched() > before) == handed_over


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)", "raise SystemExit(3)", "raise KeyError"])
def test_the_process_may_end_at_any_time(end):
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
import test_stream as t, knet
knet.config.threads = 2
w, step = t.model()
t.until_launched(step)
{end}
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(__file__), capture_output=True, text=True)
    assert run.returncode == (3 if "3" in end else 1 if "KeyError" in end else 0), run.stderr


def test_explain_shows_a_step_that_is_handed_over():
    w, step = model()
    until_launched(step)
    text = knet.explain(step).text("program")
    assert "matmul" in text and " us" in text
