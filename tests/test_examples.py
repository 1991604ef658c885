"""The examples in a short form, and (marked slow) what they must reach on the real data."""
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import knet
import knet.data

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import charlm  # noqa: E402
import housing  # noqa: E402
import lenet  # noqa: E402
import linreg  # noqa: E402
import mnist  # noqa: E402
import optimizers  # noqa: E402

ROOT = Path(__file__).parent.parent
KEPT = os.environ.get("KNET_DATA")


def lines(text):
    """The printed lines `(:epoch,1,:trn,0.9,...)` as {epoch: [numbers after it]}."""
    found = {}
    for line in re.findall(r"^\(:epoch,.*\)$", text, re.M):
        numbers = [float(x) for x in re.findall(r"(?<=[,(])-?\d[\d.e+-]*", line)]
        found[int(numbers[0])] = numbers[1:]
    return found


@pytest.fixture
def few(monkeypatch):
    """A small stand-in in place of MNIST: 1200 images to train, 200 to test; nothing is downloaded."""
    full = knet.data.mnist(standin=True)
    part = knet.data.Mnist(full.xtrn[:1200], full.ytrn[:1200], full.xtst[:200], full.ytst[:200])
    monkeypatch.setattr(knet.data, "mnist", lambda: part)


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(knet.data, "housing", lambda real=knet.data.housing: real(standin=True))


# --- short runs

def test_linreg(capsys):
    w = linreg.main("--seed 1 --epochs 3 --epochsize 2000 --inputdims 20 --outputdims 3 --lr 0.05")
    out = lines(capsys.readouterr().out)
    assert list(out) == [0, 1, 2, 3] and out[3][0] < 0.01 * out[0][0]
    assert tuple(w.shape) == (20, 3)


def test_linreg_fast_prints_no_losses(capsys):
    linreg.main(["--fast", "--epochs", "1", "--epochsize", "200"])
    captured = capsys.readouterr()
    assert captured.out == "" and "seconds" in captured.err


@pytest.mark.parametrize("atype", ["KnetArray", "ndarray"])
def test_housing(made, capsys, atype):
    w = housing.main(f"--seed 1 --epochs 5 --atype {atype}")
    out = lines(capsys.readouterr().out)
    assert list(out) == list(range(6)) and all(out[e][0] < out[e - 1][0] for e in range(1, 6))
    assert isinstance(w[1], float)


def test_housing_with_a_test_set(made, capsys):
    housing.main("--seed 1 --epochs 2 --test 0.2")
    assert [len(v) for v in lines(capsys.readouterr().out).values()] == [2, 2, 2]


def test_housing_gradients(made, capsys):
    housing.main("--seed 1 --epochs 1 --gcheck 4")
    assert "gradcheck True" in capsys.readouterr().out


@pytest.mark.parametrize("options", ["", "--hidden 16", "--hidden 16 8 --atype ndarray"])
def test_mnist(few, capsys, options):
    mnist.main(f"--seed 1 --epochs 3 --batchsize 20 --lr 0.2 {options}")
    out = lines(capsys.readouterr().out)
    assert list(out) == [0, 1, 2, 3] and out[0][1] < 0.4 and out[3][0] > 0.65


def test_lenet(few, capsys):
    w = lenet.main("--seed 1 --epochs 4 --batchsize 20")
    out = lines(capsys.readouterr().out)
    assert out[4][1] > 0.85 and [tuple(x.shape) for x in w[:3]] == [(20, 1, 5, 5), (1, 20, 1, 1), (50, 20, 5, 5)]


def test_lenet_stops_after_iters(few, capsys):
    lenet.main("--seed 1 --epochs 9 --iters 14 --batchsize 100")
    assert list(lines(capsys.readouterr().out)) == [0, 1, 2]


@pytest.mark.parametrize("name, lr", [("Sgd", 0.1), ("Momentum", 0.01), ("Nesterov", 0.01), ("Adagrad", 0.01),
                                      ("Adadelta", 0.5), ("Rmsprop", 0.001), ("Adam", 0.001)])
def test_optimizers(few, capsys, name, lr):
    optimizers.main(f"--seed 1 --optim {name} --lr {lr} --epochs 2 --batchsize 50")
    printed = capsys.readouterr().out
    assert name + "(" in printed
    out = lines(printed)
    assert list(out) == [0, 1, 2] and len(out[2]) == 4 and out[2][3] < out[0][3]


SMALL = "--hidden 12 10 --embed 8 --batchsize 8 --seqlength 15 --seed 1"


def test_charlm(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    last, best = tmp_path / "last.npz", tmp_path / "best"
    w = charlm.main(f"--data {text} {text} --save {last} --best {best} --epochs 2 --lr 1 {SMALL}")
    out = lines(capsys.readouterr().out)
    assert list(out) == [0, 1, 2] and len(out[2]) == 2 and out[2][1] < out[0][1]
    assert len(w) == 7 and last.exists() and best.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "last.npz", "text.txt"]

    loaded = charlm.main(f"--load {last} --generate 25 --seed 1")
    printed = capsys.readouterr().out
    assert len(printed) == 26 and set(printed[:-1]) <= set(text.read_text())
    for a, b in zip(w, loaded):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    charlm.main(f"--load {last} --data {text} --epochs 1 --lr 1 {SMALL}")
    assert lines(capsys.readouterr().out)[0][0] == pytest.approx(out[2][0], abs=1e-3)

    text.write_text("THE END " * 40)
    with pytest.raises(SystemExit, match="Unknown char"):
        charlm.main(f"--load {last} --data {text} {SMALL}")


def test_charlm_on_its_own_source(capsys):
    charlm.main(f"--epochs 1 --lr 1 {SMALL}")
    assert "charlm.py: " in capsys.readouterr().out


def test_charlm_state_is_carried_and_cut():
    rng = np.random.default_rng(1)
    w = charlm.weights(rng, 5, [4], 3, 0.3, knet.array)
    text = rng.integers(0, 5, (21, 2))
    state = charlm.zeros(w, 2, knet.array)
    whole = float(charlm.loss(w, list(state), text))
    halves = [float(charlm.loss(w, state, text[a:b])) for a, b in ((0, 11), (10, 21))]
    assert np.mean(halves) == pytest.approx(whole, rel=1e-5)
    assert charlm.test(w, charlm.zeros(w, 2, knet.array), text, 7) == pytest.approx(whole, rel=1e-5)


def test_lstm_cell():
    """The cell of the reference, computed independently: two steps."""
    w = knet.array((np.arange(32.0).reshape(4, 8) - 16) / 20)
    b = knet.array(np.array([[1.0, 1, 0, 0, 0, 0, 0, 0]]))
    h = c = knet.array(np.zeros((1, 2)))
    h, c = charlm.lstm(w, b, h, c, knet.array(np.array([[1.0, -1.0]])))
    np.testing.assert_allclose(np.asarray(h), [[-0.06072153] * 2], atol=1e-8)
    np.testing.assert_allclose(np.asarray(c), [[-0.1524782071] * 2], atol=1e-10)
    h, c = charlm.lstm(w, b, h, c, knet.array(np.array([[0.5, 2.0]])))
    np.testing.assert_allclose(np.asarray(h), [[-0.0620004528, -0.0627476290]], atol=1e-10)
    np.testing.assert_allclose(np.asarray(c), [[-0.1955228386, -0.1825221575]], atol=1e-10)


def test_demo(few, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    import demo
    demo.main(f"--epochs 2 --batchsize 50 --out {tmp_path / 'pictures'}")
    captured = capsys.readouterr()
    assert re.search(r"^test accuracy 0\.\d{4}$", captured.out, re.M)
    last = captured.out.splitlines()[-2:]
    assert "curves.png" in last[0] and "digits.png" in last[1]
    for name in ("curves.png", "digits.png"):
        assert (tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG")
    assert re.search(r"images/s\] loss \d\.\d{4}, accuracy \d+\.\d\d %, \d\d:\d\d left", captured.err)


# --- what must be reached on the real data

def slow(test):
    reason = "KNET_DATA does not name a folder with the real data sets"
    return pytest.mark.slow(pytest.mark.skipif(not KEPT, reason=reason)(test))


@slow
def test_linreg_reaches(capsys):
    final = []
    for seed in range(1, 6):
        linreg.main(f"--seed {seed}")
        out = lines(capsys.readouterr().out)
        assert 2.7 < out[1][0] < 3.7 and 0.00485 < out[3][0] < 0.0059
        final.append(out[10][0])
    assert 0.00104 <= np.mean(final) <= 0.00113


@slow
@pytest.mark.parametrize("atype", [np.array, knet.array], ids=["ndarray", "KnetArray"])
def test_housing_reaches(atype):
    x, y = (atype(a) for a in housing.load()[:2])
    w, losses = [atype(np.zeros((13, 1))), 0], []
    for _ in range(1000):
        losses.append(float(housing.loss(w, x, y)))
        housing.train(w, x, y, 0.1)
    exact = [592.146917, 367.463617, 242.163836, 163.231762, 112.931124, 80.806404, 60.258336, 47.092964, 38.640582,
             33.199916, 29.685812]
    np.testing.assert_allclose(losses[:11], exact, atol=1e-6)
    assert losses[20] == pytest.approx(22.946777, abs=1e-6) and losses[100] == pytest.approx(21.953223, abs=1e-6)
    assert float(housing.loss(w, x, y)) == pytest.approx(21.894831181729, abs=1e-11)
    assert w[1] == pytest.approx(22.5328063, abs=1e-6)


@slow
def test_housing_from_random_weights(capsys):
    for seed in range(1, 6):
        housing.main(f"--seed {seed}")
        out = lines(capsys.readouterr().out)
        assert 365.4 < out[1][0] < 369.8 and 29.45 < out[10][0] < 29.94 and 22.83 < out[20][0] < 23.10


@slow
def test_softmax_reaches(capsys):
    mnist.main("--seed 1")
    out = lines(capsys.readouterr().out)
    assert 0.900 <= out[1][1] <= 0.910 and 0.912 <= out[10][1] <= 0.919


@slow
def test_mlp_reaches(capsys):
    mnist.main("--seed 1 --hidden 64")
    out = lines(capsys.readouterr().out)
    assert out[10][0] >= 0.983 and 0.968 <= out[10][1] <= 0.977


@slow
def test_lenet_reaches(capsys):
    lenet.main("--seed 1 --epochs 10 --iters 6000")
    out = lines(capsys.readouterr().out)
    assert out[1][1] >= 0.955 and out[10][1] >= 0.987


@slow
@pytest.mark.parametrize("options, accuracy", [
    ("--optim Sgd --lr 0.1", .9900), ("--optim Momentum --lr 0.005 --gamma 0.99", .9889),
    ("--optim Adam --lr 0.001 --eps 1e-8", .9907), ("--optim Adagrad --lr 0.01", .9914),
    ("--optim Adadelta --lr 0.35", .9907), ("--optim Rmsprop --lr 0.001", .9911)])
def test_optimizers_reach(capsys, options, accuracy):
    optimizers.main(f"--seed 1 {options}")
    assert lines(capsys.readouterr().out)[10][2] == pytest.approx(accuracy, abs=0.004)


@slow
def test_charlm_reaches(capsys, tmp_path):
    # The first raw gradients are a thousand times longer than the clip, so that a run hangs on its seed and on rounding: 25
    # runs of two versions lay between 2.24 and 2.37 after epoch 2 (deviation 0.033), between 2.09 and 2.17 after epoch 3
    # (0.022). Hence the median of twelve seeds, and 0.035 and 0.027 around the medians of those runs.
    runs = []
    for seed in range(1, 13):
        charlm.main(f"--seed {seed} --data hiawatha --save {tmp_path / 'hiawatha.npz'}")
        runs.append([v[0] for _, v in sorted(lines(capsys.readouterr().out).items())])
    start, first, second, third = np.median(runs, axis=0)
    assert 5.60 <= start <= 5.95 and 2.53 <= first <= 2.87
    assert 2.255 <= second <= 2.325 and 2.10 <= third <= 2.155
    charlm.main(f"--seed 1 --load {tmp_path / 'hiawatha.npz'} --generate 1000")
    assert len(capsys.readouterr().out) == 1001
