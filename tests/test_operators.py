"""The operators of KnetArray: results, types and errors are those of NumPy."""

import numpy as np
import pytest
from arrays import DTYPES, A, same

import knet

BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
INTEGER = {
    "<<": lambda a, b: a << b,
    ">>": lambda a, b: a >> b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
}


def check(f, *operands):
    """The same result, type and error class as NumPy, whichever operand is ours."""
    with np.errstate(all="ignore"):
        try:
            expected = f(*operands)
        except (TypeError, OverflowError) as e:
            expected = e
    arrays = [k for k, o in enumerate(operands) if isinstance(o, np.ndarray)]
    for ours in [arrays[:1], arrays]:
        mixed = [knet.array(o) if k in ours else o for k, o in enumerate(operands)]
        if isinstance(expected, Exception):
            with pytest.raises((TypeError, OverflowError)):
                f(*mixed)
            continue
        y = f(*mixed)
        assert isinstance(y, knet.KnetArray) and y.shape == expected.shape
        assert y.dtype == expected.dtype, (y.dtype, expected.dtype)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [*BINARY, *INTEGER])
def test_binary_operators(sign, dtype):
    if dtype == "bool" and sign in "-//%<<>>":
        pytest.skip("bool arithmetic is refused, or int8 in NumPy")
    if dtype in ("int8", "uint8", "int16", "uint16") and sign == "/":
        pytest.skip("NumPy's own result types of narrow division differ by version")
    f = (BINARY | INTEGER)[sign]
    a, b = (np.arange(1, 7).reshape(2, 3) % 4 + 1).astype(dtype), np.arange(1, 4).astype(dtype)
    check(f, a, b)
    for number in (2, 1, True, 2.5, np.float32(2.5), np.int8(3)):
        if (
            dtype == "bool"
            and (number is True or sign in INTEGER)
            or isinstance(number, (bool, np.generic))
            and sign == "/"
        ):
            continue
        check(f, a, number)
        check(lambda x: f(number, x), a)


def test_mixed_dtypes():
    for s in DTYPES:
        for t in DTYPES:
            check(lambda a, b: a + b, np.ones(2, s), np.ones(2, t)) if (s, t) != ("bool", "bool") else None


def test_python_numbers_stay_weak():
    x = knet.array(A)
    assert (x * 2).dtype == (x + 1.5).dtype == (2 - x).dtype == (x > 1.5).astype("float32").dtype == "float32"
    assert (knet.array([1, 2], dtype="int8") + 1).dtype == "int8"
    assert (knet.array([1, 2], dtype="int8") + 1.0).dtype == "float64"
    assert (knet.array([True]) + 1).dtype == "int64"
    with pytest.raises(OverflowError, match="out of bounds for uint8"):
        knet.array([1], dtype="uint8") + 300
    with pytest.raises(OverflowError):
        knet.array([1], dtype="uint8") - (-1)
    assert (knet.array([1], dtype="uint8") < 300).tolist() == [True]
    assert (knet.array([1], dtype="uint8") > -1).tolist() == [True]
    assert (knet.array([1], dtype="int64") < 2**70).tolist() == [True]
    loss = knet.sin(0.5) * 2
    assert (loss * x).dtype == "float32" and (loss * knet.array(A.astype(np.float64))).dtype == "float64"


def test_unary_operators():
    a = np.array([-2, 0, 3])
    for dtype in ("int32", "float32"):
        x = knet.array(a.astype(dtype))
        same(-x, -a.astype(dtype))
        same(+x, a.astype(dtype))
        same(abs(x), abs(a.astype(dtype)))
    same(~knet.array(a), ~a)
    same(~knet.array([True, False]), np.array([False, True]))
    with pytest.raises(TypeError):
        ~knet.array([1.0])


def test_power():
    a = np.array([1.0, 2.0, 3.5], np.float32)
    x = knet.array(a)
    for n in (-2, -1, 0, 0.5, 1, 2, 3, 4, 2.0, 1.5, np.float32(2)):
        y = x**n
        assert y.dtype == "float32"
        np.testing.assert_allclose(y.numpy(), a**n, rtol=1e-6)
    np.testing.assert_allclose((2**x).numpy(), 2**a, rtol=1e-6)
    np.testing.assert_allclose((x**x).numpy(), a**a, rtol=1e-6)
    same(knet.array([1, -2, 3]) ** 2, np.array([1, 4, 9]))
    same(knet.array([1, -2, 3]) ** 3, np.array([1, -8, 27]))
    assert (knet.array([2]) ** 0.5).dtype == "float64"
    same(pow(knet.array([2]), 5), np.array([32]))
    with pytest.raises(ValueError, match="power"):
        knet.array([2]) ** -1
    with pytest.raises(TypeError):
        pow(x, 2, 3)
    q, r = divmod(knet.array([7.0, -7.0]), 2)
    assert q.tolist() == [3.0, -4.0] and r.tolist() == [1.0, 1.0]
    q, r = divmod(7, knet.array([2, 3]))
    assert q.tolist() == [3, 2] and r.tolist() == [1, 1]
    y = x**1
    y += 1
    assert x.tolist() == a.tolist()


@pytest.mark.parametrize(
    "s, t",
    [
        ((3,), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3,)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (5, 3, 1)),
        ((4, 1, 2, 3), (5, 3, 2)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 2)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    ],
)
def test_matmul(s, t):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=s), rng.normal(size=t)
    for p, q in [(knet.array(a), knet.array(b)), (a, knet.array(b)), (knet.array(a), b)]:
        y = p @ q
        assert isinstance(y, knet.KnetArray) and y.shape == (a @ b).shape
        np.testing.assert_allclose(y.numpy(), a @ b, atol=1e-12)


def test_matmul_errors_and_types():
    x = knet.array(A)
    with pytest.raises(ValueError, match=r"\(2, 3\) @ \(2, 3\)"):
        x @ x
    with pytest.raises(ValueError):
        x @ 2.0
    assert (x @ A.T.astype(np.float64)).dtype == "float64"
    x @= np.eye(3, dtype=np.float32)
    same(x, A)


def test_in_place_keeps_handle_and_dtype():
    x = knet.array(A)
    other, y = x, x.copy()
    x += A.astype(np.float64)
    assert x is other and x.dtype == "float32"
    same(x, A + A)
    same(y, A)
    for sign in ("-=", "*=", "/=", "//=", "%=", "**="):
        z, n = {"v": knet.array(A)}, {"v": A.copy()}
        handle = z["v"]
        exec(f"v {sign} 2", {}, z)
        exec(f"v {sign} 2", {}, n)
        assert z["v"] is handle
        np.testing.assert_allclose(handle.numpy(), n["v"], rtol=1e-6)
    i = knet.array([6, 5])
    i <<= 1
    i |= 1
    i &= 13
    i ^= 2
    i >>= 1
    n = np.array([6, 5])
    n <<= 1
    n |= 1
    n &= 13
    n ^= 2
    n >>= 1
    same(i, n)
    with pytest.raises(TypeError, match="astype"):
        i += 0.5
    with pytest.raises(TypeError):
        i /= 2
    with pytest.raises(ValueError, match="fit"):
        i += np.ones((3, 2), int)
    same(i, n)
    u = knet.array([1], dtype="uint8")
    with pytest.raises(TypeError):
        u += np.array([1], np.int8)
    total = 0
    total += knet.array(1.0)
    total += 1
    assert float(total) == 2.0


def test_foreign_operands():
    x = knet.array(A)
    assert (x == None) is False and (x != None) is True and (x == "a") is False and x != object()  # noqa: E711
    assert (x == {1}) is False
    for f in (
        lambda: x + None,
        lambda: "a" + x,
        lambda: x < "a",
        lambda: x @ None,
        lambda: x + object(),
        lambda: x ** "a",
    ):
        with pytest.raises(TypeError):
            f()

    class Other:
        def __radd__(self, o):
            return "mine"

    assert x + Other() == "mine"
    assert (x[0] == [1.5, 0, 3]).tolist() == [True, False, True]
    assert {x: 1}[x] == 1 and len({x, x.copy()}) == 2


def test_shape_errors_name_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2,\)"):
        knet.array(A) + knet.array([1.0, 2.0])
