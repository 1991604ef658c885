"""Convolutions large enough to be cut into chunks, blocks and parts: all three passes, and the bits on any number of threads."""
import numpy as np
import pytest

import knet
from knet.ops import conv as ops

# name: batch, channels and extent, output channels, window, stride, padding, groups
LAYERS = {
    "strips of images in chunks": (3, 64, 56, 64, 3, 1, 1, 1),
    "chunks and blocks": (4, 128, 28, 96, 3, 1, 1, 1),
    "parts of the panels": (8, 128, 14, 160, 3, 1, 1, 1),
    "images joined, many blocks": (9, 512, 7, 256, 3, 1, 1, 1),
    "with strides": (4, 64, 30, 64, 3, 2, 1, 1),
    "groups": (6, 64, 14, 128, 3, 1, 1, 2),
    "a wide window": (4, 20, 20, 50, 5, 1, 0, 1),
    "windows of one": (4, 256, 14, 64, 1, 1, 0, 1),
}


def reference(x, w, dy, stride, padding, groups):
    """y, dx and dw in float64, one element of the window at a time."""
    x, w, dy = x.astype("float64"), w.astype("float64"), dy.astype("float64")
    n, c, h, _ = x.shape
    o, _, k, _ = w.shape
    rows = dy.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    y, dx, dw = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(w.shape)
    for g in range(groups):
        cs, os = slice(g * c // groups, (g + 1) * c // groups), slice(g * o // groups, (g + 1) * o // groups)
        d = dy[:, os].transpose(1, 0, 2, 3).reshape(o // groups, -1)
        for i in range(k):
            for j in range(k):
                at = slice(i, i + stride * (rows - 1) + 1, stride), slice(j, j + stride * (rows - 1) + 1, stride)
                met = padded[:, cs, *at].transpose(1, 0, 2, 3)
                v = w[os, :, i, j]
                y[:, os] += (v @ met.reshape(len(met), -1)).reshape(-1, n, rows, rows).transpose(1, 0, 2, 3)
                dx[:, cs, *at] += (v.T @ d).reshape(-1, n, rows, rows).transpose(1, 0, 2, 3)
                dw[os, :, i, j] = d @ met.reshape(len(met), -1).T
    return y, dx[:, :, padding:padding + h, padding:padding + h], dw


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", LAYERS)
def test_large_layers(layer, dtype):
    n, c, h, o, k, stride, padding, groups = LAYERS[layer]
    r, rows = np.random.default_rng(1), (h + 2 * padding - k) // stride + 1
    x, w, dy = (r.standard_normal(s).astype(dtype) for s in ((n, c, h, h), (o, c // groups, k, k), (n, o, rows, rows)))
    options = {"stride": (stride, stride), "padding": (padding, padding), "dilation": (1, 1), "groups": groups,
               "flip": False}
    kx, kw, kd = knet.array(x), knet.array(w), knet.array(dy)
    results, before = {}, knet.config.threads
    try:
        for threads in (1, 4):
            knet.config.threads = threads
            results[threads] = [np.asarray(a.numpy()) for a in (
                ops.conv(kx, kw, **options), ops.conv_dx(kd, kw, **options, spatial=(h, h)),
                ops.conv_dw(kd, kx, **options, kernel=(k, k)))]
    finally:
        knet.config.threads = before
    for one, four, right in zip(results[1], results[4], reference(x, w, dy, stride, padding, groups)):
        assert one.tobytes() == four.tobytes()
        assert abs(one - right).max() < {"float32": 3e-6, "float64": 1e-14}[dtype] * abs(right).max()
