"""grad: containers, kinds of leaves, higher orders, and what is refused."""
import math
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

import knet
from knet import grad, gradcheck, gradloss, value_and_grad


def close(a, b, **kw):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=kw.pop("rtol", 1e-6), **kw)


# ---- results

def test_gradloss_gives_the_gradient_first_and_value_and_grad_the_value():
    assert gradloss(lambda x: x * x)(3.0) == (6.0, 9.0)
    assert value_and_grad(lambda x: x * x)(3.0) == (9.0, 6.0)


def test_each_leaf_keeps_its_type_shape_and_dtype():
    w = [np.ones((2, 3), "float32"), knet.array(np.ones(3, "float64")), 2.0, 1, np.float32(3)]
    d = grad(lambda w: (w[0] * w[1]).sum() * w[2] + w[3] * w[4])(w)
    assert isinstance(d, list)
    assert isinstance(d[0], np.ndarray) and d[0].dtype == np.float32 and d[0].shape == (2, 3)
    assert isinstance(d[1], knet.KnetArray) and d[1].dtype == "float64" and d[1].shape == (3,)
    assert type(d[2]) is float and d[2] == 6
    assert type(d[3]) is float and d[3] == 3
    assert isinstance(d[4], np.float32) and d[4] == 1


def test_a_numpy_gradient_can_be_written_to():
    d = grad(lambda w: (w * w).sum())(np.ones(3))
    d *= 2
    close(d, 4)


Pair = namedtuple("Pair", "a b")


@dataclass
class Layer:
    w: object
    b: float = 0.0


def test_containers():
    x = np.array([1.0, 2.0])
    w = {"p": Pair(x, (x, [x])), "l": Layer(x, 2), 3: None}
    d = grad(lambda w: (w["p"].a * w["p"].b[1][0]).sum() + w["l"].b * w["l"].w.sum())(w)
    assert isinstance(d["p"], Pair) and isinstance(d["l"], Layer) and d[3] is None
    close(d["p"].a, x)
    close(d["p"].b[0], 0)
    close(d["p"].b[1][0], x)
    close(d["l"].w, 2)
    assert d["l"].b == 3.0


def test_a_bias_of_integer_zero_is_legal_and_does_not_widen():
    x = knet.array(np.ones((4, 3), "float32"))
    w = [knet.array(np.ones((3, 1), "float32")), 0]

    def loss(w):
        y = x @ w[0] + w[1]
        assert y.dtype == "float32"
        return (y * y).sum() / 4
    d = grad(loss)(w)
    assert d[1] == 6.0 and d[0].dtype == "float32"


def test_argnum_and_keywords():
    f = lambda a, b, *, c=1.0: a * b * c
    assert grad(f, 1)(2.0, 3.0) == 2.0
    assert grad(f, -1)(2.0, 3.0, c=4.0) == 8.0
    assert grad(f, (0, 1))(2.0, 3.0) == (3.0, 2.0)


def test_arguments_are_passed_on_as_they_were_given():
    def weighted(*xs, power=1, **more):
        return sum((i + 1) * x ** power for i, x in enumerate(xs)) * more.get("times", 1)
    many = [float(i) for i in range(20)]
    assert grad(weighted, 17)(*many, times=2) == 36.0
    assert grad(weighted, -1)(*many, power=2) == 2 * 20 * 19.0
    assert grad(weighted, (0, -1, 4))(*many) == (1.0, 20.0, 5.0)
    assert grad(weighted, (1,))(*many) == (2.0,)
    assert grad(weighted, ())(*many) == ()
    with pytest.raises(TypeError, match="argument 20 is to be differentiated, but the call has 20 positional"):
        grad(weighted, (3, 20))(*many)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        grad(lambda x, y: x)(1.0)
    assert knet._core.depth() == 0


def test_the_function_may_do_with_its_parameters_what_it_likes():
    w = [knet.ones(3), knet.array([2.0, 2.0, 2.0])]

    def consuming(w):
        a = w.pop()
        w[0] += 1
        w.append(None)
        return (w[0] * a).sum()
    da, db = grad(consuming)(w)
    assert da.tolist() == [2.0] * 3 and db.tolist() == [2.0] * 3 and len(w) == 2 and w[0].tolist() == [1.0] * 3

    def constant(x):
        w.append(knet.ones(1))
        return 1.0
    assert [d.tolist() for d in grad(constant)(w)] == [[0.0] * 3] * 2


def test_calls_inside_have_parameters_of_their_own():
    x, y = knet.array([1.0, 2.0]), knet.array([3.0, 4.0])

    def outer(w):
        inner = grad(lambda v: (v[0] * v[1] * w[0]).sum())([w[1], w[0]])
        with pytest.raises(ZeroDivisionError):
            grad(lambda v: 1 / 0)([w[0], w[1], w[0]])
        return (inner[0] * inner[1]).sum()  # w0 w0 * w1 w0
    dx, dy = grad(outer)([x, y])
    assert dx.tolist() == [9.0, 48.0] and dy.tolist() == [1.0, 8.0]
    assert knet._core.depth() == 0
    with pytest.raises(RuntimeError, match="no differentiated call is open"):
        knet._core.leave()


def test_has_aux():
    d, aux = grad(lambda x: (x * x, [x, "name"]), has_aux=True)(3.0)
    assert d == 6.0 and aux[1] == "name" and aux[0].item() == 3.0
    assert value_and_grad(lambda x: (x * x, 7), has_aux=True)(3.0) == ((9.0, 7), 6.0)
    assert gradloss(lambda x: (x * x, 7), has_aux=True)(3.0) == (6.0, (9.0, 7))


def test_unreached_leaves_get_zeros():
    d = grad(lambda w: w[0] * 2)([1.0, np.ones(3), knet.array([1.0, 2.0])])
    assert d[0] == 2.0
    close(d[1], np.zeros(3))
    close(d[2], [0, 0])
    assert grad(lambda x: 3.0)(1.0) == 0.0
    close(grad(lambda x: knet.array(2.0))(np.ones(2)), [0, 0])


# ---- higher order

def test_nine_derivatives_of_sin():
    f = knet.sin
    expect = [math.cos, lambda x: -math.sin(x), lambda x: -math.cos(x), math.sin]
    for k in range(9):
        f = grad(f)
        assert f(1.0) == pytest.approx(expect[k % 4](1.0), rel=1e-12)


def test_perturbation_confusion():
    assert grad(lambda x: x * grad(lambda y: x + y)(x))(5.0) == 1
    assert grad(lambda x: x * grad(lambda y: x * y)(2.0))(3.0) == 6


def test_a_gradient_penalty_through_convolution_and_pooling():
    r = np.random.default_rng(0)
    w = [r.standard_normal((2, 1, 3, 3)), r.standard_normal((2 * 4, 1))]
    x = r.standard_normal((2, 1, 6, 6))

    def critic(w, x):
        return (knet.mat(knet.pool(knet.tanh(knet.conv4(w[0], x)))) @ w[1]).sum()

    def penalty(w, x):
        d = grad(critic, 1)(w, x)
        return ((d * d).sum() - 1) ** 2
    assert gradcheck(penalty, w, x, delta=1e-5, rtol=1e-5, nsample=20, verbose=True)


def test_a_hessian():
    f = lambda x: (knet.exp(x * x)).sum()
    x = np.array([0.3, -0.5])
    rows = [grad(lambda x: grad(f)(x)[i])(x) for i in range(2)]
    close(np.stack(rows), np.diag((2 + 4 * x * x) * np.exp(x * x)), rtol=1e-10)


def test_a_gradient_inside_a_step_is_a_value():
    x = knet.array([1.0, 2.0])
    d = grad(lambda x: (grad(lambda z: (z ** 3).sum())(x) * x).sum())(x)
    close(d, 9 * np.array([1.0, 2.0]) ** 2)


# ---- numpy inside

def test_numpy_functions_are_recorded():
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    c = np.arange(3.0)
    f = lambda w: np.sum(np.tanh(w @ c) ** 2) + np.mean(np.where(w > 0, np.exp(w), -w)) + \
        np.concatenate([w, w * 2]).sum() + np.einsum("ij,j->", w, c) + (c * w).sum() + np.add(c, w).max()
    assert gradcheck(f, x, verbose=True)


def test_a_numpy_function_without_a_counterpart_is_refused_by_name():
    with pytest.raises(TypeError, match="convolve"):
        grad(lambda w: np.convolve(w, w).sum())(np.ones(3))


# ---- a value that depends on a parameter never becomes a constant silently

@pytest.mark.parametrize("convert", [
    lambda x: float(x), lambda x: int(x), lambda x: np.asarray(x), lambda x: np.array([x, x]), lambda x: math.sin(x),
    lambda x: memoryview(x), lambda x: x.tolist()])
def test_silent_conversions_are_refused(convert):
    with pytest.raises(TypeError, match=r"item\(\)|knet\."):
        grad(lambda x: x * 1 + 0 * np.sum(convert(x * 2)))(3.0)


def test_ways_out():
    assert grad(lambda x: x * x.item())(3.0) == 3.0
    assert grad(lambda x: x * knet.value(x))(3.0) == 3.0
    assert grad(lambda x: knet.stack([x, x * x]).sum())(3.0) == 7.0
    assert grad(lambda x: knet.sin(x))(0.0) == 1.0


def test_branches_comparisons_and_formatting_work():
    def f(x):
        assert x > 1 and not x < 1 and bool(x > 0) and x
        assert f"{x:.2f}" == "3.00" and "3" in str(x) and "3" in repr(x)
        return max(x, x * 0) * (x if x > 2 else 1)
    assert grad(f)(3.0) == 6.0


def test_arrays_of_recorded_scalars_are_differentiable():
    w = np.array([2.0, 3.0])
    d = grad(lambda w: (knet.array([w[0] * 5, w[1], 1.0]) * np.array([1.0, 10.0, 100.0])).sum())(w)
    close(d, [5, 10])


def test_pythons_max_on_an_array_explains_maximum():
    with pytest.raises((TypeError, ValueError), match="maximum"):
        max(0, knet.array([1.0, 2.0]))


# ---- what is refused

def test_refusals():
    with pytest.raises(TypeError, match=r"shape \(3,\).*sum"):
        grad(lambda x: x * 2)(np.ones(3))
    with pytest.raises(TypeError, match="int64.*only floats"):
        grad(lambda x: x.sum())(np.arange(3))
    with pytest.raises(TypeError, match="bool"):
        grad(lambda w: w[0])([True])
    with pytest.raises(TypeError, match=r"set.*at \['a'\]"):
        grad(lambda w: 0.0)({"a": {1, 2}})
    with pytest.raises(TypeError, match="return missing"):
        grad(lambda x: None)(1.0)
    with pytest.raises(TypeError, match="argument 1"):
        grad(lambda x: x, 1)(1.0)
    with pytest.raises(TypeError, match="int64|bool"):
        grad(lambda x: (x > 0).sum())(np.ones(3))


# ---- user's operations

def test_primitive_with_numpy_inside():
    @knet.primitive
    def soft(x):
        return np.logaddexp(0, np.asarray(x))

    @soft.derivative
    def _(dy, y, x):
        return dy * knet.sigm(x)

    x = np.linspace(-2, 2, 5)
    close(soft(knet.array(x)), np.logaddexp(0, x))
    close(grad(lambda x: soft(x).sum())(x), 1 / (1 + np.exp(-x)))
    assert gradcheck(lambda x: soft(x * 2).sum(), x, verbose=True)
    s = 1 / (1 + np.exp(-x))
    close(grad(lambda x: grad(lambda z: soft(z).sum())(x).sum())(x), s * (1 - s))


def test_primitive_of_two_arguments_and_keywords():
    @knet.primitive
    def scaled(a, b, *, k=1):
        return a * b * k

    @scaled.derivative
    def _(dy, y, a, b, *, k=1):
        return dy * b * k, None
    assert grad(lambda a: scaled(a, 3.0, k=2))(5.0) == 6.0
    assert grad(lambda b: scaled(5.0, b, k=2))(3.0) == 0.0


def test_a_wrong_derivative_is_found():
    @knet.primitive
    def cube(x):
        return x ** 3

    @cube.derivative
    def _(dy, y, x):
        return dy * 2 * x
    assert not gradcheck(lambda x: cube(x).sum(), np.array([1.0, 2.0]))


def test_gradcheck_accepts_float32_parameters_and_vector_results():
    assert gradcheck(lambda w, x: knet.tanh(x @ w), np.ones((3, 2), "float32") * 0.1, np.ones((4, 3)))


def test_repeated_indices_add_up():
    close(grad(lambda w: w[[1, 1, 0]].sum())(np.ones(3)), [1, 2, 0])
