import numpy as np
import pytest


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=1, help="how many times more random programs and calls (default 1)")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def quiet_numpy():
    """References divide by zero and overflow on purpose."""
    with np.errstate(all="ignore"):
        yield
