"""Convolution and pooling in one to three spatial dimensions.

Images are (N, C, H, W), filters (O, I, kh, kw). `conv`, `conv_dx` and `conv_dw` are the three corners of one trilinear
form <dy, conv(x, w)>: the derivative of each is written with the other two. So are maxpool, plane_gather and
plane_scatter, and avgpool and avgpool_back. Derivatives of any order follow.
"""
import itertools
import functools
import math
import operator

from .create import default_float
from .define import function, np, ops, primitive, sample
from .shape import as_array

# ---- references: a sum over the elements of the filter, each of which meets a strided part of the image


def _taps(spatial, kernel, stride, padding, dilation):
    """For each element of the filter: its index, and the indices of outputs and of image elements that meet there."""
    for k in itertools.product(*map(range, kernel)):
        outs, ins = [], []
        for i, n, w, s, p, d in zip(k, spatial, kernel, stride, padding, dilation):
            count = 1 + (n + 2 * p - (d * (w - 1) + 1)) // s
            lo = [o for o in range(count) if 0 <= o * s + i * d - p < n]
            outs.append(lo)
            ins.append([o * s + i * d - p for o in lo])
        yield k, np.ix_(*outs), np.ix_(*ins)


def _trilinear(x, w, dy, want, stride, padding, dilation, groups, flip):
    """Whichever of y, dx and dw is wanted, in float64."""
    spatial, kernel = x.shape[2:], w.shape[2:]
    n, c, o = x.shape[0], x.shape[1] // groups, w.shape[0] // groups
    x6, w6 = x.reshape(n, groups, c, *spatial), w.reshape(groups, o, c, *kernel)
    y6 = dy.reshape(n, groups, o, *dy.shape[2:])
    for k, out, at in _taps(spatial, kernel, stride, padding, dilation):
        k = tuple(m - 1 - i for m, i in zip(kernel, k)) if flip else k
        wk = w6[(..., *k)]
        part, grad = x6[(..., *at)], y6[(..., *out)]
        if want == "y":
            y6[(..., *out)] = grad + np.einsum("ngc...,goc->ngo...", part, wk)
        elif want == "dx":
            x6[(..., *at)] = part + np.einsum("ngo...,goc->ngc...", grad, wk)
        else:
            w6[(..., *k)] = np.einsum("ngox,ngcx->goc", grad.reshape(n, groups, o, -1), part.reshape(n, groups, c, -1))
    return {"y": y6.reshape(dy.shape), "dx": x6.reshape(x.shape), "dw": w6.reshape(w.shape)}[want]


def _np_conv(x, w, stride, padding, dilation, groups, flip):
    spatial = [1 + (n + 2 * p - (d * (k - 1) + 1)) // s
               for n, k, s, p, d in zip(x.shape[2:], w.shape[2:], stride, padding, dilation)]
    y = np.zeros((x.shape[0], w.shape[0], *spatial), x.dtype)
    return _trilinear(x, w, y, "y", stride, padding, dilation, groups, flip)


def _np_conv_dx(dy, w, stride, padding, dilation, groups, flip, spatial):
    x = np.zeros((dy.shape[0], w.shape[1] * groups, *spatial), dy.dtype)
    return _trilinear(x, w, dy, "dx", stride, padding, dilation, groups, flip)


def _np_conv_dw(dy, x, stride, padding, dilation, groups, flip, kernel):
    w = np.zeros((dy.shape[1], x.shape[1] // groups, *kernel), dy.dtype)
    return _trilinear(x, w, dy, "dw", stride, padding, dilation, groups, flip)


def _windows(x, window, stride, padding):
    """For each output: its place, the index of the part of the plane under the window, and where that part begins."""
    counts = [1 + (n + 2 * p - w) // s for n, w, s, p in zip(x, window, stride, padding)]
    for o in np.ndindex(*counts):
        lo = [max(i * s - p, 0) for i, s, p in zip(o, stride, padding)]
        hi = [min(i * s - p + w, n) for i, s, p, w, n in zip(o, stride, padding, window, x)]
        yield o, (..., *map(slice, lo, hi)), lo


def _pooled(x, window, stride, padding, dtype):
    return np.zeros(
        (*x.shape[:2], *(1 + (n + 2 * p - w) // s for n, w, s, p in zip(x.shape[2:], window, stride, padding))), dtype
    )


def _np_maxpool(x, window, stride, padding):
    y, index = _pooled(x, window, stride, padding, x.dtype), _pooled(x, window, stride, padding, "int64")
    for o, part, lo in _windows(x.shape[2:], window, stride, padding):
        values = x[part]
        flat = values.reshape(*x.shape[:2], -1)
        best = flat.argmax(-1)
        y[(..., *o)] = np.take_along_axis(flat, best[..., None], -1)[..., 0]
        place = [i + l for i, l in zip(np.unravel_index(best, values.shape[2:]), lo)]
        index[(..., *o)] = np.ravel_multi_index(place, x.shape[2:])
    return y, index


def _np_avgpool(x, window, stride, padding, count_padding):
    y = _pooled(x, window, stride, padding, x.dtype)
    for o, part, _ in _windows(x.shape[2:], window, stride, padding):
        values = x[part].reshape(*x.shape[:2], -1)
        y[(..., *o)] = values.sum(-1) / (math.prod(window) if count_padding else values.shape[-1])
    return y


def _np_avgpool_back(dy, window, stride, padding, count_padding, spatial):
    x = np.zeros((*dy.shape[:2], *spatial), dy.dtype)
    for o, part, _ in _windows(spatial, window, stride, padding):
        n = math.prod(window) if count_padding else math.prod(x[part].shape[2:])
        x[part] += dy[(..., *o)].reshape(*dy.shape[:2], *[1] * len(spatial)) / n
    return x


def _np_plane_gather(x, idx):
    flat = np.take_along_axis(x.reshape(*x.shape[:2], -1), idx.reshape(*idx.shape[:2], -1), -1)
    return flat.reshape(idx.shape)


def _np_plane_scatter(dy, idx, spatial):
    n, c = dy.shape[:2]
    x = np.zeros((n, c, math.prod(spatial)), dy.dtype)
    np.add.at(x, (np.arange(n)[:, None, None], np.arange(c)[:, None], idx.reshape(n, c, -1)), dy.reshape(n, c, -1))
    return x.reshape(n, c, *spatial)


# ---- primitives

_CONV = "stride: ints, padding: ints, dilation: ints, groups: int, flip: bool"
_PLAIN = dict(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, flip=True)
_ODD = dict(stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=2, flip=False)

conv = primitive(
    "conv",
    f"x, w, {_CONV}",
    "Contraction",
    public=False,
    grad=(
        lambda dy, y, x, w, **a: conv_dx(dy, w, **a, spatial=x.shape[2:]),
        lambda dy, y, x, w, **a: conv_dw(dy, x, **a, kernel=w.shape[2:]),
    ),
    reference=_np_conv,
    samples=[
        sample((2, 3, 5, 4), (2, 3, 2, 3), **_PLAIN),
        sample((2, 4, 6, 5), (6, 2, 3, 2), **_ODD),
        sample((1, 2, 6), (3, 2, 3), stride=(2,), padding=(1,), dilation=(1,), groups=1, flip=True),
        sample(
            (1, 2, 3, 4, 3),
            (2, 2, 2, 2, 2),
            stride=(1,) * 3,
            padding=(0, 1, 0),
            dilation=(1,) * 3,
            groups=1,
            flip=False,
        ),
    ],
    doc="Sum of products of a filter with each window of an image; `flip` turns the filter round: true convolution.",
)

conv_dx = primitive(
    "conv_dx",
    f"dy, w, {_CONV}, spatial: ints",
    "Contraction",
    public=False,
    grad=(
        lambda g, y, dy, w, spatial, **a: conv(g, w, **a),
        lambda g, y, dy, w, spatial, **a: conv_dw(dy, g, **a, kernel=w.shape[2:]),
    ),
    reference=_np_conv_dx,
    samples=[
        sample((2, 2, 4, 2), (2, 3, 2, 3), **_PLAIN, spatial=(5, 4)),
        sample((2, 6, 2, 8), (6, 2, 3, 2), **_ODD, spatial=(6, 5)),
    ],
    doc="The derivative of conv with respect to the image, of the given spatial extents.",
)

conv_dw = primitive(
    "conv_dw",
    f"dy, x, {_CONV}, kernel: ints",
    "Contraction",
    public=False,
    grad=(
        lambda g, y, dy, x, kernel, **a: conv(x, g, **a),
        lambda g, y, dy, x, kernel, **a: conv_dx(dy, g, **a, spatial=x.shape[2:]),
    ),
    reference=_np_conv_dw,
    samples=[
        sample((2, 2, 4, 2), (2, 3, 5, 4), **_PLAIN, kernel=(2, 3)),
        sample((2, 6, 2, 8), (2, 4, 6, 5), **_ODD, kernel=(3, 2)),
    ],
    doc="The derivative of conv with respect to the filter, of the given spatial extents.",
)

_POOL = "window: ints, stride: ints, padding: ints"
_POOLS = [((1, 2, 6, 5), dict(window=(2, 2), stride=(2, 2), padding=(0, 0))),
          ((2, 1, 6, 6), dict(window=(3, 2), stride=(2, 1), padding=(1, 1)))]


def _plane(*shape, n):
    return lambda rng: rng.integers(0, n, shape)


maxpool = primitive(
    "maxpool", f"x, {_POOL}", "Other", n_out=2, public=False,
    grad=lambda dy, y, x, window, stride, padding:
        [None if dy[0] is None else plane_scatter(dy[0], y[1], spatial=x.shape[2:])],
    reference=_np_maxpool, samples=[sample(s, **a) for s, a in _POOLS],
    doc="The largest element of each window (padding is never chosen), and its place in the flattened plane.")

plane_gather = primitive(
    "plane_gather", "x, idx", "Other", public=False,
    grad=(lambda dy, y, x, idx: plane_scatter(dy, idx, spatial=x.shape[2:]), None),
    reference=_np_plane_gather, samples=[sample((2, 3, 4, 5), _plane(2, 3, 2, 3, n=20))],
    doc="Elements of each plane at places of the flattened plane.")

plane_scatter = primitive(
    "plane_scatter", "dy, idx, spatial: ints", "Other", public=False,
    grad=(lambda g, y, dy, idx, spatial: plane_gather(g, idx), None),
    reference=_np_plane_scatter, samples=[sample((2, 3, 2, 3), _plane(2, 3, 2, 3, n=20), spatial=(4, 5))],
    doc="The adjoint of plane_gather: planes of zeros with dy added at places of the flattened plane.")

avgpool = primitive(
    "avgpool", f"x, {_POOL}, count_padding: bool", "Other", public=False,
    grad=(lambda dy, y, x, **a: avgpool_back(dy, **a, spatial=x.shape[2:]),),
    reference=_np_avgpool, samples=[sample(s, **a, count_padding=c) for s, a in _POOLS for c in (True, False)],
    doc="The mean of each window; padding counts as zeros if `count_padding`, else not at all.")

avgpool_back = primitive(
    "avgpool_back", f"dy, {_POOL}, count_padding: bool, spatial: ints", "Other", public=False,
    grad=(lambda g, y, dy, spatial, **a: avgpool(g, **a),),
    reference=_np_avgpool_back,
    samples=[sample((1, 2, 3, 2), **_POOLS[0][1], count_padding=True, spatial=(6, 5)),
             sample((2, 1, 3, 7), **_POOLS[1][1], count_padding=False, spatial=(6, 6))],
    doc="The adjoint of avgpool: each element spread evenly over its window.")


# ---- Knet's functions

def _per_dim(name, what, v, dims):
    if not isinstance(v, (tuple, list)):
        return (operator.index(v),) * dims
    if len(v) != dims:
        raise ValueError(f"[{name}] {what} {tuple(v)} must have one number for each of the {dims} spatial dimensions. "
                         f"Give one number or {dims}.")
    return tuple(map(operator.index, v))


def _spatial(name, x):
    dims = len(x.shape) - 2
    if not 1 <= dims <= 3:
        raise ValueError(
            f"[{name}] images need 1 to 3 spatial dimensions after (N, C): {tuple(x.shape)}. "
            "Add dimensions with reshape."
        )
    return dims


def _floats(*xs):
    """Arrays of floats; integers become what the others are."""
    xs = [as_array(x) for x in xs]
    if all(x.dtype.kind == "f" for x in xs):
        return xs
    floats = [x.dtype for x in xs if "float" in str(x.dtype)]
    return [x if "float" in str(x.dtype) else ops.cast(x, dtype=floats[0] if floats else default_float()) for x in xs]


def _scaled(y, alpha):
    return y if isinstance(alpha, (int, float)) and alpha == 1 else ops.multiply(y, alpha)


def _conv_args(name, w, x, padding, stride, dilation, mode, group):
    w, x = _floats(w, x)
    dims = _spatial(name, x)
    if len(w.shape) != len(x.shape):
        raise ValueError(f"[{name}] filters and images differ in dimensions: w {tuple(w.shape)}, x {tuple(x.shape)}. "
                         "Use w (O, I, ...) and x (N, I, ...).")
    numbers = (tuple(v) if isinstance(v, list) else v for v in (padding, stride, dilation))
    return w, x, _conv_attrs(name, dims, *numbers, mode, group)


@functools.lru_cache(1024)
def _conv_attrs(name, dims, padding, stride, dilation, mode, group):
    if mode not in (0, 1):
        raise ValueError(
            f"[{name}] mode {mode!r} is not 0 or 1. Use 0 to convolve (the filter is flipped) "
            "or 1 to correlate (it is not)."
        )
    given = (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    attrs = {what: _per_dim(name, what, v, dims) for what, v, _ in given}
    for what, _, least in given:
        if min(attrs[what]) < least:
            raise ValueError(f"[{name}] {what} {attrs[what]} must be at least {least}.")
    if not isinstance(group, int) or group < 1:
        raise ValueError(f"[{name}] group={group!r} must be a positive integer.")
    return {**attrs, "groups": group, "flip": mode == 0}


def _np_conv4(w, x, padding=0, stride=1, dilation=1, mode=0, alpha=1, group=1):
    attrs = (_per_dim("conv4", "", v, x.ndim - 2) for v in (stride, padding, dilation))
    return alpha * _np_conv(x, w, *attrs, group, mode == 0)


@function(samples=[sample((3, 2, 2, 2), (1, 2, 3, 3)),
                   sample((4, 2, 2, 3), (2, 4, 5, 5), padding=(0, 1), stride=2, mode=1, alpha=2, group=2)],
          reference=_np_conv4)
def conv4(w, x, *, padding=0, stride=1, dilation=1, mode=0, alpha=1, group=1):
    """Convolution of images x (N, I, H, W) with filters w (O, I/group, kh, kw): (N, O, H', W').

    H' = 1 + (H + 2 padding - ((kh - 1) dilation + 1)) // stride. mode 0 flips the filter in every spatial dimension
    (the convolution of mathematics), mode 1 does not (what other libraries call convolution). alpha scales the result.
    One to three spatial dimensions; padding, stride and dilation are numbers or one for each of them. Raises ValueError
    where channels or groups do not fit, or the filter is larger than the padded image.

    >>> knet.conv4(knet.ones((8, 3, 5, 5)), knet.ones((16, 3, 28, 28)), padding=2).shape
    (16, 8, 28, 28)
    """
    w, x, attrs = _conv_args("conv4", w, x, padding, stride, dilation, mode, group)
    if w.shape[0] % group or x.shape[1] % group:
        raise ValueError(f"[conv4] {group} groups do not divide the channels: w {tuple(w.shape)}, x {tuple(x.shape)}. "
                         "Use a divisor of both w.shape[0] and x.shape[1].")
    if w.shape[1] * group != x.shape[1]:
        raise ValueError(
            f"[conv4] channels differ: w {tuple(w.shape)} expects {w.shape[1] * group}, x {tuple(x.shape)} has "
            f"{x.shape[1]}. w is (O, I/group, ...) and x is (N, I, ...)."
        )
    return _scaled(conv(x, w, **attrs), alpha)


def _deconv_spatial(x, w, stride, padding, dilation):
    return tuple(s * (n - 1) + (k - 1) * d + 1 - 2 * p
                 for n, k, s, p, d in zip(x.shape[2:], w.shape[2:], stride, padding, dilation))


def _np_deconv4(w, x, padding=0, stride=1, dilation=1, mode=0, alpha=1, group=1):
    stride, padding, dilation = (_per_dim("deconv4", "", v, x.ndim - 2) for v in (stride, padding, dilation))
    spatial = _deconv_spatial(x, w, stride, padding, dilation)
    return alpha * _np_conv_dx(x, w, stride, padding, dilation, group, mode == 0, spatial)


@function(
    samples=[
        sample((3, 2, 2, 2), (1, 3, 3, 3)),
        sample((4, 2, 3, 3), (2, 4, 3, 3), padding=1, stride=2, mode=1, group=2),
    ],
    reference=_np_deconv4,
)
def deconv4(w, x, *, padding=0, stride=1, dilation=1, mode=0, alpha=1, group=1):
    """Transposed convolution, the derivative of conv4 with respect to its images.

    x (N, I, H, W), w (I, O/group, kh, kw) give (N, O, H', W'), H' = stride (H - 1) + (kh - 1) dilation + 1 - 2 padding.
    Options as in conv4."""
    w, x, attrs = _conv_args("deconv4", w, x, padding, stride, dilation, mode, group)
    if w.shape[0] != x.shape[1]:
        raise ValueError(
            f"[deconv4] channels differ: w {tuple(w.shape)} expects {w.shape[0]}, x {tuple(x.shape)} has {x.shape[1]}. "
            "w is (I, O/group, ...) and x is (N, I, ...)."
        )
    if x.shape[1] % group:
        raise ValueError(
            f"[deconv4] {group} groups do not divide the {x.shape[1]} channels of x {tuple(x.shape)}. Use a divisor."
        )
    spatial = _deconv_spatial(x, w, attrs["stride"], attrs["padding"], attrs["dilation"])
    if min(spatial) < 1:
        raise ValueError(
            f"[deconv4] nothing is left: w {tuple(w.shape)}, x {tuple(x.shape)}, padding {attrs['padding']}. "
            "Use less padding."
        )
    return _scaled(conv_dx(x, w, **attrs, spatial=spatial), alpha)


def _pool_args(name, x, window, padding, stride, mode):
    window, padding, stride = (tuple(v) if isinstance(v, list) else v for v in (window, padding, stride))
    x, = _floats(x) if mode in (1, 2) or name == "unpool" else (as_array(x),)
    return x, _pool_attrs(name, _spatial(name, x), window, padding, stride, mode)


@functools.lru_cache(1024)
def _pool_attrs(name, dims, window, padding, stride, mode):
    if mode not in (0, 1, 2, 3):
        raise ValueError(f"[{name}] mode {mode!r} is not one of 0 and 3 (maximum), 1 (mean, padding counts as zeros), "
                         "2 (mean, padding does not count).")
    window = _per_dim(name, "window", window, dims)
    stride = window if stride is None else _per_dim(name, "stride", stride, dims)
    padding = _per_dim(name, "padding", padding, dims)
    if min(window) < 1 or min(stride) < 1 or min(padding) < 0 or any(p >= w for p, w in zip(padding, window)):
        raise ValueError(
            f"[{name}] window {window}, stride {stride}, padding {padding}: windows and strides must be at least 1, "
            "padding at least 0 and less than the window."
        )
    return {"window": window, "stride": stride, "padding": padding}


def _np_pool(x, window=2, padding=0, stride=None, mode=0, alpha=1):
    d = x.ndim - 2
    window, padding = _per_dim("pool", "", window, d), _per_dim("pool", "", padding, d)
    stride = window if stride is None else _per_dim("pool", "", stride, d)
    return alpha * (_np_avgpool(x, window, stride, padding, mode == 1) if mode in (1, 2) else
                    _np_maxpool(x, window, stride, padding)[0])


@function(samples=[sample((1, 2, 4, 5)), sample((1, 2, 6, 6), window=3, padding=1, stride=2, mode=1),
                   sample((1, 2, 6, 6), window=(2, 3), padding=1, mode=2, alpha=2)], reference=_np_pool)
def pool(x, *, window=2, padding=0, stride=None, mode=0, alpha=1):
    """Maximum (mode 0, 3) or mean (mode 1: padding counts as zeros; 2: it does not) of the windows of x (N, C, H, W).

    H' = 1 + (H + 2 padding - window) // stride; stride is the window unless given. alpha scales the result. Raises
    ValueError where a window is larger than the padded image.

    >>> knet.pool(knet.array([[[[1.0, 2.0], [3.0, 4.0]]]])).item()
    4.0
    """
    x, attrs = _pool_args("pool", x, window, padding, stride, mode)
    y = avgpool(x, **attrs, count_padding=mode == 1) if mode in (1, 2) else maxpool(x, **attrs)[0]
    return _scaled(y, alpha)


@function()
def unpool(x, *, window=2, padding=0, stride=None, mode=0, alpha=1):
    """Each element spread over its window, so that pool(unpool(x, ...), ...) == x with the same options (if the stride
    is at least the window). H' = (H - 1) stride + window - 2 padding."""
    x, attrs = _pool_args("unpool", x, window, padding, stride, mode)
    spatial = tuple(
        (n - 1) * s + w - 2 * p for n, s, w, p in zip(x.shape[2:], attrs["stride"], attrs["window"], attrs["padding"])
    )
    if min(spatial) < 1:
        raise ValueError(
            f"[unpool] nothing is left: {tuple(x.shape)} with padding {attrs['padding']}. Use less padding."
        )
    # A mean that counts padding divides by the whole window: what is left of a window in the image makes up for it.
    y = avgpool_back(ops.multiply(x, math.prod(attrs["window"])), **attrs, count_padding=mode != 1, spatial=spatial)
    return y if isinstance(alpha, (int, float)) and alpha == 1 else ops.divide(y, alpha)


@function()
def padsize(w):
    """The padding that keeps the extents of images under filters w of odd extents: (k - 1) // 2 in each dimension."""
    return tuple((k - 1) // 2 for k in as_array(w).shape[2:])
