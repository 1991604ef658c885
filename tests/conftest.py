import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def quiet_numpy():
    """References divide by zero and overflow on purpose."""
    with np.errstate(all="ignore"):
        yield
