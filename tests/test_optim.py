"""Optimisers: the reference's golden numbers, containers, clipping."""
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

import knet
from knet.optim import (Adadelta, Adagrad, Adam, Momentum, Nesterov, Rmsprop, Sgd, clip, clone, optimizers, update)

# f(w) = w² from w = 1: the first five w, computed independently.
GOLDEN = [
    (Sgd(0.001), [.998, .996004, .994011992, .992023968, .9900399201]),
    (Sgd(), [.8, .64, .512, .4096, .32768]),
    (Momentum(0.001, 0.9), [.998, .994204, .988799192, .9819572664, .9738356189]),
    (Momentum(), [.9, .715, .46775, .1860875, -.100100625]),
    (Nesterov(0.001, 0.9), [.9962, .99079444, .9839575771, .9758487917, .9666137831]),
    (Nesterov(), [.805, .557775, .290620125, .0331406944, -.1903182882]),
    (Adagrad(0.1), [.9000000125, .8331035434, .7804562001, .7362231526, .6977148829]),
    (Adagrad(), [.9500000062, .9155625353, .8879107670, .8642785292, .8433808098]),
    (Rmsprop(0.001), [.9968377263, .9945470155, .9926306806, .9909306851, .9893736679]),
    (Rmsprop(), [.9683772629, .9457880792, .9270531610, .9105435248, .8955067839]),
    (Adadelta(0.01), [.9999683773, .9999359335, .9999029267, .9998694830, .9998356772]),
    (Adadelta(), [.9968377263, .9935981741, .9903090457, .9869840424, .9836313240]),
    (Adam(), [.9990000000, .9980000262, .9970000961, .9960002269, .9950004361]),
]


@pytest.mark.parametrize("make", [float, lambda x: np.full((2, 3), x), lambda x: knet.array(np.full((2, 3), x))],
                         ids=["float", "ndarray", "KnetArray"])
@pytest.mark.parametrize("opt, expected", GOLDEN, ids=[repr(opt) for opt, _ in GOLDEN])
def test_golden(opt, expected, make):
    opt, w = clone(opt), [make(1.0)]
    for value in expected:
        w = update(w, [2 * w[0]], opt)
        np.testing.assert_allclose(np.asarray(w[0]), value, rtol=0, atol=6e-11)
    assert type(w[0]) is type(make(1.0))


# In six dimensions Rosenbrock's function has a second minimum, of 3.97; from START no optimiser ends there.
START = np.random.default_rng(0).standard_normal(6)


def rosenbrock(x):
    return float(((1 - x[:-1])**2 + 100 * (x[1:] - x[:-1]**2)**2).sum())


def rosenbrock_gradient(x):
    g = np.zeros_like(x)
    g[:-1] = -2 * (1 - x[:-1]) - 400 * x[:-1] * (x[1:] - x[:-1]**2)
    g[1:] += 200 * (x[1:] - x[:-1]**2)
    return g


def minimum(w, opt, iterations=12000):
    for _ in range(iterations):
        if isinstance(w, dict):
            g = {k: rosenbrock_gradient(x) for k, x in w.items()}
        else:
            g = type(w)(rosenbrock_gradient(x) for x in w)
        w = update(w, g, opt)
    return [rosenbrock(x) for x in (w.values() if isinstance(w, dict) else w)]


@pytest.mark.parametrize("opt", [
    Sgd(.0005), Momentum(.00025, .95), Nesterov(.00025, .95), Adam(.005, .9, .95, 1e-8), Adagrad(.35, 1e-6),
    Adadelta(.01, .5, 1e-6), Rmsprop(.0005, .9, 1e-6)], ids=repr)
def test_rosenbrock(opt):
    assert minimum([START], opt)[0] <= 1e-3


@pytest.mark.parametrize("nest", [tuple, list, lambda xs: dict(zip("ab", xs))], ids=["tuple", "list", "dict"])
def test_rosenbrock_of_two(nest):
    w = nest([START, 10 * START])
    assert max(minimum(w, Adam(.005, .9, .95, 1e-8))) <= 1e-3


@dataclass
class Layer:
    w: object
    b: object


Pair = namedtuple("Pair", "first second")


def test_containers():
    layer = Layer(np.ones(2), 1.0)
    w = [layer, {"x": 1, "y": np.ones(3)}, Pair(2.0, (3.0,)), None]
    g = [Layer(np.ones(2), 1.0), {"y": np.ones(3)}, Pair(1.0, (1.0,)), None]
    result = update(w, g, lr=0.5)
    assert result is w and w[0] is layer
    np.testing.assert_array_equal(layer.w, [0.5, 0.5])
    assert layer.b == 0.5 and w[1]["x"] == 1 and w[2] == Pair(1.5, (2.5,)) and w[3] is None
    np.testing.assert_array_equal(w[1]["y"], [0.5] * 3)


def test_integer_parameter_becomes_a_float():
    assert update([0], [2.0], lr=0.5) == [-1.0]


def test_dtype_is_kept():
    for otype in (Sgd, Momentum, Nesterov, Adagrad, Adadelta, Rmsprop, Adam):
        w = update([np.ones(3, np.float32)], [np.ones(3, np.float32)], otype(gclip=1.0))
        assert w[0].dtype == np.float32


def test_old_arrays_are_left_alone():
    old = np.ones(3)
    w = update([old], [np.ones(3)], lr=0.5)
    assert w[0] is not old and old[0] == 1


def test_nest_of_optimisers_equals_one():
    def run(w, opt):
        for _ in range(5):
            w = update(w, [2 * w[0], [2 * w[1][0]]], opt)
        return w[0], w[1][0]
    assert run([1.0, [2.0]], Adam(0.1)) == run([1.0, [2.0]], optimizers([1.0, [2.0]], Adam, lr=0.1))


def test_changing_the_rate():
    opt = Sgd(0.5)
    w = update([1.0], [1.0], opt)
    opt.lr = 0.25
    assert update(w, [1.0], opt) == [0.25]


def test_clone_has_no_state():
    opt = Adam(0.1)
    update([1.0], [1.0], opt)
    new = clone(opt)
    assert opt.state and not new.state and new.lr == 0.1 and repr(new) == repr(opt)


def test_gclip_is_per_array():
    w = update([np.zeros(2), np.zeros(2)], [np.array([3.0, 4.0]), np.array([0.3, 0.4])], lr=1.0, gclip=1.0)
    np.testing.assert_allclose(w[0], [-0.6, -0.8])
    np.testing.assert_allclose(w[1], [-0.3, -0.4])


@pytest.mark.parametrize("make", [np.array, lambda x: knet.array(np.array(x))], ids=["ndarray", "KnetArray"])
def test_clip_is_global(make):
    g = {"a": make([3.0, 0.0]), "b": [make([0.0, 4.0]), 12.0]}
    new = clip(g, 6.5)
    np.testing.assert_allclose(np.asarray(new["a"]), [1.5, 0])
    np.testing.assert_allclose(np.asarray(new["b"][0]), [0, 2])
    assert float(new["b"][1]) == 6.0 and g["b"][1] == 12.0
    same = clip(g, 13.5)
    assert float(same["b"][1]) == 12.0
    assert clip(g, 0) is g


@pytest.mark.parametrize("w, g, opt, words", [
    ([1.0, 2.0], [1.0], None, "list of 2 .* list of 1"),
    ([1.0], 1.0, None, "list of 1 .* float"),
    ([np.zeros(3)], [np.zeros(4)], None, r"\(3,\) .* \(4,\)"),
    ([1.0], [1.0], [], "optimisers are list of 0"),
    ([1.0], [1.0], [None], "needs one optimiser"),
])
def test_mismatch(w, g, opt, words):
    with pytest.raises(ValueError, match=words):
        update(w, g, opt)


def test_settings_beside_an_optimiser():
    with pytest.raises(ValueError, match="opt.lr"):
        update([1.0], [1.0], Sgd(), lr=1.0)
