"""What the tests of KnetArray have in common."""

import numpy as np

import knet

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]
A = np.array([[1.5, -2.0, 3.0], [4.0, 5.0, -6.5]], np.float32)


def same(x, y):
    assert isinstance(x, knet.KnetArray)
    assert x.shape == np.shape(y) and x.dtype == np.asarray(y).dtype
    np.testing.assert_array_equal(x.numpy(), y)
