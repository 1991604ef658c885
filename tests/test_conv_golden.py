"""Knet's published numbers for convolution and pooling, its own identities, and messages."""
import itertools

import numpy as np
import pytest

import knet
from knet.ops import conv as ops


def row(*v):
    return np.array(v, "float32").reshape(1, 1, 1, -1)


def values(x):
    return np.asarray(x.numpy())


W, X = row(1, 2, 3), row(1, 2, 3, 4, 5, 6, 7)
W2 = np.arange(1, 25, dtype="float32").reshape(3, 2, 2, 2)
X2 = np.arange(1, 19, dtype="float32").reshape(1, 2, 3, 3)
SQUARE = np.arange(1, 10, dtype="float32").reshape(1, 1, 3, 3)
FOUR = np.array([[1, 2], [3, 4]], "float32").reshape(1, 1, 2, 2)


@pytest.mark.parametrize("options, expected", [
    ({}, [10, 16, 22, 28, 34]),
    ({"padding": (0, 1)}, [4, 10, 16, 22, 28, 34, 32]),
    ({"padding": (0, 1), "stride": 3}, [4, 22, 32]),
    ({"mode": 1}, [14, 20, 26, 32, 38]),
    ({"alpha": 2}, [20, 32, 44, 56, 68]),
    ({"dilation": (1, 2)}, [5 + 2 * 3 + 3 * 1, 6 + 2 * 4 + 3 * 2, 7 + 2 * 5 + 3 * 3])])
def test_conv_row(options, expected):
    y = values(knet.conv4(W, X, **options))
    np.testing.assert_array_equal(y, row(*expected))


def test_conv_square():
    np.testing.assert_array_equal(values(knet.conv4(FOUR, SQUARE))[0, 0], [[23, 33], [53, 63]])
    np.testing.assert_array_equal(values(knet.conv4(FOUR, SQUARE, mode=1))[0, 0], [[37, 47], [67, 77]])


def test_conv_channels():
    np.testing.assert_array_equal(values(knet.conv4(W2, X2))[0], [
        [[328, 364], [436, 472]], [[808, 908], [1108, 1208]], [[1288, 1452], [1780, 1944]]])
    np.testing.assert_array_equal(values(knet.conv4(W2, X2, mode=1))[0], [
        [[356, 392], [464, 500]], [[836, 936], [1136, 1236]], [[1316, 1480], [1808, 1972]]])


@pytest.mark.parametrize(
    "n, options, expected",
    [
        (6, {}, [2, 4, 6]),
        (6, {"window": (1, 3)}, [3, 6]),
        (6, {"padding": (0, 1)}, [1, 3, 5, 6]),
        (10, {"stride": (1, 4)}, [2, 6, 10]),
        (6, {"padding": (0, 1), "mode": 1}, [0.5, 2.5, 4.5, 3]),
        (6, {"padding": (0, 1), "mode": 2}, [1, 2.5, 4.5, 6]),
    ],
)
def test_pool_row(n, options, expected):
    options = {"window": (1, 2), **options}
    np.testing.assert_array_equal(values(knet.pool(row(*range(1, n + 1)), **options)), row(*expected))


def test_pool_square():
    x = np.arange(1, 17, dtype="float32").reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(values(knet.pool(x))[0, 0], [[6, 8], [14, 16]])
    np.testing.assert_array_equal(values(knet.pool(x, mode=3))[0, 0], [[6, 8], [14, 16]])
    np.testing.assert_array_equal(values(knet.pool(x, alpha=2))[0, 0], [[12, 16], [28, 32]])


def test_max_pool_never_picks_padding():
    np.testing.assert_array_equal(values(knet.pool(-X2, padding=1)), values(knet.pool(-X2, padding=1, mode=3)))
    assert values(knet.pool(-X2, padding=1)).max() < 0


@pytest.mark.parametrize(
    "mode, options",
    list(
        itertools.product(
            (0, 1, 2, 3),
            (
                {},
                {"window": 3},
                {"padding": 1},
                {"stride": 3},
                {"window": 3, "padding": 1},
                {"alpha": 2},
                {"window": (2, 3), "padding": (0, 1)},
            ),
        )
    ),
)
def test_pool_of_unpool(mode, options):
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype("float32")
    y = knet.unpool(x, mode=mode, **options)
    np.testing.assert_allclose(values(knet.pool(y, mode=mode, **options)), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"stride": 2}, {"mode": 1, "dilation": 2},
                                     {"stride": (2, 1), "padding": (1, 0), "alpha": 3}])
def test_deconv_is_the_adjoint_of_conv(options):
    rng = np.random.default_rng(2)
    w, y = (rng.standard_normal(s) for s in ((3, 2, 3, 3), (2, 3, 4, 5)))
    x = values(knet.deconv4(w, y, **options))
    other = rng.standard_normal(x.shape)
    np.testing.assert_allclose((x * other).sum(), (values(knet.conv4(w, other, **options)) * y).sum(), rtol=1e-10)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_groups(group):
    rng = np.random.default_rng(3)
    w, x = rng.standard_normal((8, 4 // group, 3, 3)), rng.standard_normal((2, 4, 6, 6))
    parts = [values(knet.conv4(v, u)) for v, u in zip(np.split(w, group), np.split(x, group, axis=1))]
    np.testing.assert_allclose(values(knet.conv4(w, x, group=group)), np.concatenate(parts, axis=1), rtol=1e-10)


@pytest.mark.parametrize("dims", [1, 3])
def test_one_and_three_dimensions(dims):
    """A filter with one element scales; one with a one elsewhere shifts."""
    x = np.random.default_rng(4).standard_normal((2, 1) + (5,) * dims)
    w = np.zeros((1, 1) + (3,) * dims)
    w[(0, 0) + (0,) * dims] = 1
    np.testing.assert_array_equal(values(knet.conv4(w, x, mode=1)), x[(...,) + (slice(0, 3),) * dims])
    np.testing.assert_array_equal(values(knet.conv4(w, x)), x[(...,) + (slice(2, 5),) * dims])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: knet.conv4(W2, X2, mode=2), r"\[conv4\] mode 2 is not 0 or 1"),
        (lambda: knet.conv4(W2, X), r"\[conv4\] channels differ: w \(3, 2, 2, 2\) expects 2, x \(1, 1, 1, 7\) has 1"),
        (
            lambda: knet.conv4(W2, X2, padding=(1, 1, 1)),
            r"\[conv4\] padding \(1, 1, 1\) must have one number for each of the 2",
        ),
        (lambda: knet.conv4(W2, X2, stride=0), r"\[conv4\] stride \(0, 0\) must be at least 1"),
        (lambda: knet.conv4(W2, X2, group=2), r"\[conv4\] 2 groups do not divide the channels"),
        (lambda: knet.conv4(W2, X2[:, :, :1]), r"\[conv\] the window does not fit"),
        (lambda: knet.conv4(W2, X2[0]), r"\[conv4\] filters and images differ in dimensions"),
        (lambda: knet.conv4(W2[0, 0], X2[0, 0]), r"\[conv4\] images need 1 to 3 spatial dimensions"),
        (lambda: knet.deconv4(W2, X2), r"\[deconv4\] channels differ: w \(3, 2, 2, 2\) expects 3"),
        (lambda: knet.pool(X2, mode=4), r"\[pool\] mode 4 is not one of"),
        (lambda: knet.pool(X2, window=2, padding=2), r"\[pool\] .*padding at least 0 and less than the window"),
        (lambda: knet.pool(X2, window=(2, 2, 2)), r"\[pool\] window \(2, 2, 2\) must have one number"),
        (lambda: knet.unpool(X2[:, :, :1, :1], window=2, padding=1), r"\[unpool\] nothing is left"),
    ],
)
def test_messages(call, words):
    with pytest.raises(ValueError, match="^" + words):
        call()


# ---- every way of computing the three passes, against a sum over the elements of the filter

CASES = [  # images, groups, channels of a group in and out, extents, window, stride, padding, dilation
    (2, 6, 1, 1, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1)),     # depthwise: planes where they are
    (3, 5, 1, 1, (23, 37), (3, 3), (2, 2), (1, 1), (1, 1)),
    (2, 3, 1, 1, (40, 35), (5, 5), (1, 2), (2, 2), (1, 2)),
    (1, 2, 1, 1, (9, 70), (3, 3), (1, 1), (6, 5), (2, 3)),      # more padding than the window reaches
    (2, 3, 1, 1, (17, 19), (3, 4), (3, 3), (1, 2), (1, 1)),     # strides that are copied apart
    (2, 3, 1, 1, (20, 40), (2, 17), (1, 1), (0, 3), (1, 1)),    # a window wider than planes are filtered with
    (2, 4, 1, 2, (12, 33), (3, 3), (2, 2), (1, 1), (1, 1)),     # two results to a channel
    (2, 2, 3, 2, (13, 18), (3, 3), (2, 1), (1, 1), (1, 1)),     # few results: lines
    (2, 1, 16, 20, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),     # vectors over several rows
    (2, 1, 3, 17, (30, 33), (7, 7), (2, 2), (3, 3), (1, 1)),    # phases of strides apart
    (2, 1, 33, 20, (11, 14), (1, 1), (2, 2), (0, 0), (1, 1)),   # phases without a tap
    (1, 1, 5, 70, (15, 15), (2, 2), (3, 4), (0, 0), (1, 1)),
    (2, 1, 40, 15, (9, 9), (3, 3), (3, 3), (2, 2), (2, 2)),
    (9, 1, 20, 50, (12, 12), (5, 5), (1, 1), (0, 0), (1, 1)),   # gathered; dx by columns
    (2, 1, 70, 130, (8, 9), (3, 3), (1, 1), (1, 1), (1, 1)),    # weights beyond a block of rows
    (1, 1, 300, 500, (5, 6), (1, 3), (1, 1), (0, 1), (1, 1)),   # weights beyond their part of the cache
    (3, 2, 32, 64, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),     # vectors along the channels, several rows at once
    (2, 1, 32, 64, (30, 41), (3, 3), (1, 1), (1, 1), (1, 1)),   # in shares and strips
    (1, 1, 48, 62, (29, 46), (3, 3), (2, 2), (1, 1), (1, 1)),   # dx in phases
    (2, 1, 64, 64, (14, 13), (3, 3), (2, 2), (1, 1), (1, 1)),   # dx: several rows of four phases
    (2, 1, 32, 64, (29, 23), (3, 3), (3, 2), (2, 1), (1, 2)),
    (2, 1, 64, 64, (12, 17), (2, 2), (3, 4), (0, 0), (1, 1)),   # phases without a tap, between others
    (9, 1, 40, 32, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1)),     # images joined
    (1, 1, 64, 64, (500,), (9,), (2,), (4,), (3,)),             # shares of a row
    (2, 1, 32, 64, (5, 9, 8), (3, 2, 3), (2, 1, 2), (1, 0, 2), (1, 2, 1)),
    (3, 1, 4, 5, (1, 1), (3, 3), (5, 5), (1, 1), (1, 1)),       # one result
    (2, 1, 20, 340, (56, 56), (1, 1), (1, 1), (0, 0), (1, 1)),  # a window of 1: results written around the caches
    (2, 1, 340, 20, (57, 55), (1, 1), (2, 2), (0, 0), (1, 1)),  # dx spread over so many
    (5, 2, 30, 61, (14, 13), (1, 1), (1, 1), (0, 0), (1, 1)),   # dw: small images together
    (3, 1, 128, 32, (300,), (1,), (1,), (0,), (1,)),            # dw: turned by several tasks
    (2, 1, 40, 30, (6, 9, 8), (1, 1, 1), (2, 1, 3), (0, 0, 0), (1, 1, 1)),
    (2, 1, 16, 340, (40, 40), (3, 3), (1, 1), (1, 1), (1, 1)),  # turned results written around the caches
    (3, 1, 250, 500, (5, 6), (3, 3), (1, 1), (1, 1), (1, 1)),   # weights packed for several images
    (2, 2, 3, 4, (2, 10), (1, 1), (3, 1), (0, 0), (1, 1)),      # one row of results, more of the image
    (2, 2, 3, 4, (10, 2), (1, 1), (1, 3), (0, 0), (1, 1)),
    (2, 3, 4, 5, (700,), (9,), (2,), (4,), (3,)),
    (1, 2, 1, 1, (1300,), (3,), (1,), (1,), (1,)),
    (2, 1, 3, 6, (5, 9, 8), (3, 2, 3), (2, 1, 2), (1, 0, 2), (1, 2, 1)),
    (1, 3, 1, 1, (4, 6, 7), (2, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 2)),
    (2, 1, 33, 70, (9, 29), (3, 3), (1, 1), (2, 1), (2, 1)),    # windows of three in a row: images read where they are
    (2, 2, 32, 34, (16, 30), (3, 3), (2, 2), (1, 1), (1, 1)),
    (1, 1, 40, 33, (6, 35), (4, 3), (2, 2), (0, 0), (1, 1)),
    (2, 1, 32, 64, (3, 31), (2, 3), (1, 1), (4, 1), (1, 1)),    # results that meet no row
    (2, 1, 32, 64, (61,), (3,), (1,), (1,), (1,)),
    (2, 1, 36, 32, (64,), (3,), (2,), (1,), (1,)),
    (1, 1, 32, 32, (9, 28), (3, 6), (1, 1), (1, 2), (1, 1)),    # neighbours by threes, by twos for dw
    (2, 1, 32, 48, (7, 7), (3, 3), (1, 1), (0, 0), (1, 1)),
]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_passes(case, flip, dtype, tolerance):
    images, groups, c, o, extents, window, stride, padding, dilation = case
    rng = np.random.default_rng(5)
    x = rng.standard_normal((images, groups * c, *extents)).astype(dtype)
    w = rng.standard_normal((groups * o, c, *window)).astype(dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "flip": flip}
    x64, w64 = x.astype("float64"), w.astype("float64")
    y = ops.conv.reference(x64, w64, **options)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dy64 = dy.astype("float64")
    for name, mine, want in [
        ("y", ops.conv(knet.array(x), knet.array(w), **options), y),
        ("dx", ops.conv_dx(knet.array(dy), knet.array(w), **options, spatial=extents),
         ops.conv_dx.reference(dy64, w64, **options, spatial=extents)),
        ("dw", ops.conv_dw(knet.array(dy), knet.array(x), **options, kernel=window),
         ops.conv_dw.reference(dy64, x64, **options, kernel=window)),
    ]:
        assert mine.shape == want.shape
        np.testing.assert_allclose(values(mine), want, rtol=0, atol=tolerance * np.abs(want).max(), err_msg=name)


def test_passes_have_the_same_bits_for_any_number_of_threads():
    def all_passes():
        rng, results = np.random.default_rng(6), []
        for groups, channels, extent, window, stride in [(1, 64, 56, 3, 1), (1, 48, 28, 3, 2), (64, 64, 56, 3, 1),
                                                         (64, 64, 57, 3, 2), (1, 64, 56, 1, 2), (1, 3, 120, 7, 2),
                                                         (1, 300, 56, 1, 1), (1, 256, 14, 1, 1)]:
            x, w = (knet.array(rng.standard_normal(s).astype("float32"))
                    for s in ((6, channels, extent, extent), (64, channels // groups, window, window)))
            padding = (window // 2,) * 2
            options = {"stride": (stride,) * 2, "padding": padding, "dilation": (1, 1), "groups": groups, "flip": False}
            y = ops.conv(x, w, **options)
            results += [values(y), values(ops.conv_dx(y, w, **options, spatial=(extent, extent))),
                        values(ops.conv_dw(y, x, **options, kernel=(window, window)))]
        return results

    before = knet.config.threads
    try:
        knet.config.threads = 1
        one = all_passes()
        knet.config.threads = 3
        for a, b in zip(one, all_passes()):
            np.testing.assert_array_equal(a, b)
    finally:
        knet.config.threads = before


@pytest.mark.parametrize("stride", [1, 2])
def test_rows_of_images_end_where_they_end(stride):
    """What lies beside a row in memory, the next row, channel or image, is not met instead of its padding."""
    options = {"stride": (stride,) * 2, "padding": (1, 1), "dilation": (1, 1), "groups": 1, "flip": False}
    x, w = np.ones((3, 32, 8, 29), "float32"), np.ones((32, 32, 3, 3), "float32")
    x[0], x[2] = np.nan, np.inf
    for column in (0, 28):
        x[1] = 1
        x[1, :, :, column] = np.nan
        y = values(ops.conv(knet.array(x), knet.array(w), **options))[1]
        met = slice(0, 1 + (stride == 1)) if column == 0 else slice(-2 + (stride == 2), None)
        assert np.isnan(y[:, :, met]).all()
        y[:, :, met] = 0
        assert np.isfinite(y).all()
        if stride == 1:
            dx = values(ops.conv_dx(knet.array(x), knet.array(w), **options, spatial=(8, 29)))[1]
            np.testing.assert_array_equal(dx[:, :, 3:-3], y[:, :, 3:-3])


def test_a_depthwise_filter_reads_nothing_beyond_its_plane():
    """Infinities and NaNs in one channel stay there, and no weight that meets only finite elements becomes one."""
    x = np.ones((1, 3, 6, 21), "float32")
    x[0, 1] = np.nan
    x[0, 0, :, -1] = np.inf
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 3, "flip": False}
    w = np.ones((3, 1, 3, 3), "float32")
    y = values(ops.conv(knet.array(x), knet.array(w), **options))
    assert np.isfinite(y[0, 2]).all() and np.isfinite(y[0, 0, :, :-2]).all() and np.isnan(y[0, 1]).all()
    dw = values(ops.conv_dw(knet.array(np.ones_like(y)), knet.array(x), **options, kernel=(3, 3)))
    assert np.isfinite(dw[2]).all() and np.isfinite(dw[0, 0, :, 0]).all() and np.isinf(dw[0, 0, :, 1:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
@pytest.mark.parametrize("window, stride, padding", [
    ((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((2, 3), (1, 1), (1, 1)), ((3, 2), (3, 2), (0, 1)),
    ((3, 3), (1, 3), (1, 0))])
def test_max_pooling_of_short_rows(window, stride, padding, dtype):
    """Rows of one to nine results, several of them in a vector; places of the first greatest."""
    rng = np.random.default_rng(7)
    options = {"window": window, "stride": stride, "padding": padding}
    for extents in itertools.product((3, 5, 8, 13), (3, 4, 6, 8, 9)):
        x = rng.integers(-4, 5, (3, 5, *extents)).astype(dtype)
        if dtype != "int16":
            x[0, 1] = -np.inf
            x[1, 2, 1, 1] = np.nan
        y, at = ops.maxpool(knet.array(x), **options)
        want, place = ops.maxpool.reference(x, **options)
        np.testing.assert_array_equal(values(y), want)
        np.testing.assert_array_equal(values(at), place)
