"""Initialisers: shapes, spread, and the exact kernel of bilinear."""
import math

import numpy as np
import pytest

import knet
from knet import init


def values(x):
    return np.asarray(x.numpy())


def test_gaussian():
    knet.seed(1)
    x = values(init.gaussian(400, 300, mean=2.0, std=0.5))
    assert x.shape == (400, 300) and x.dtype == np.float32
    assert abs(x.mean() - 2) < 0.01 and abs(x.std() - 0.5) < 0.01
    assert abs(values(init.gaussian(400, 300)).std() - 0.01) < 2e-4


@pytest.mark.parametrize("shape, fans", [
    ((300, 200), 500), ((50, 20, 5, 5), 70 * 25), ((8, 4, 3, 3, 3), 12 * 27), ((10000,), 10001)])
def test_xavier(shape, fans):
    knet.seed(2)
    limit = math.sqrt(6 / fans)
    x = values(init.xavier(*shape))
    assert x.shape == shape and np.abs(x).max() <= limit * (1 + 1e-6) and np.abs(x).max() > 0.95 * limit
    assert values(init.xavier_normal(*shape, gain=2.0)).std() == pytest.approx(2 * math.sqrt(2 / fans), rel=0.1)
    assert init.xavier is init.xavier_uniform


def test_xavier_v08():
    knet.seed(3)
    for shape, fans in (((300, 200), 500), ((50, 20, 5, 5), 50 + 20 * 25)):
        x = np.abs(values(init.xavier_v08(*shape)))
        assert 0.95 * math.sqrt(2 / fans) < x.max() <= math.sqrt(2 / fans) * (1 + 1e-6)
    with pytest.raises(ValueError, match=r"^\[xavier_v08\]"):
        init.xavier_v08(10)


def test_bilinear():
    x = values(init.bilinear(2, 3))
    assert x.shape == (3, 3, 4, 4)
    tent = np.array([0.25, 0.75, 0.75, 0.25])
    for i in range(3):
        for j in range(3):
            np.testing.assert_allclose(x[i, j], np.outer(tent, tent) if i == j else 0 * np.outer(tent, tent))
    odd = values(init.bilinear(3, 1, dtype="float64"))[0, 0]
    tent = np.array([1, 2, 3, 2, 1]) / 3
    np.testing.assert_allclose(odd, np.outer(tent, tent), rtol=1e-15)


def test_bilinear_enlarges():
    """Inside, a ramp stays a ramp."""
    ramp = np.arange(6.0, dtype="float32")[None, None, None, :] * np.ones((1, 1, 6, 1), "float32")
    y = values(knet.deconv4(init.bilinear(2, 1), ramp, stride=2, padding=1))
    np.testing.assert_allclose(np.diff(y[0, 0, 3:-3, 3:-3], axis=1), 0.5, rtol=1e-5)


def test_seed():
    knet.seed(4)
    a, b = values(init.gaussian(3, 3)), values(init.gaussian(3, 3))
    knet.seed(4)
    assert (a == values(init.gaussian(3, 3))).all() and (a != b).any()


def test_errors():
    with pytest.raises(ValueError, match=r"^\[xavier_uniform\]"):
        init.xavier(3, -1)
    with pytest.raises(ValueError, match=r"^\[gaussian\]"):
        init.gaussian(3, 2.5)
