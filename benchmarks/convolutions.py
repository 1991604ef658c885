"""Convolutions and pooling, forward and both gradients: ours beside PyTorch (oneDNN), also in channels-last.

    python benchmarks/convolutions.py [--threads 1,4] [--repeats 15] [--least] [--only LeNet]

`dx` and `dw` are the gradient by the image and by the filter alone, the operation by itself on both sides (PyTorch:
its `convolution_backward`, asked for that one). `pool+back` is pooling and its gradient.
"""
import interleave

# name, batch, in channels, extent, out channels, window, stride, padding, groups
SHAPES = [
    ("LeNet 1", 100, 1, 28, 20, 5, 1, 0, 1), ("LeNet 2", 100, 20, 12, 50, 5, 1, 0, 1),
    ("ResNet stem", 8, 3, 224, 64, 7, 2, 3, 1),
    ("ResNet 3x3 56", 8, 64, 56, 64, 3, 1, 1, 1), ("ResNet 3x3 28", 8, 128, 28, 128, 3, 1, 1, 1),
    ("ResNet 3x3 14", 8, 256, 14, 256, 3, 1, 1, 1), ("ResNet 3x3 7", 8, 512, 7, 512, 3, 1, 1, 1),
    ("ResNet 3x3 /2", 8, 128, 56, 128, 3, 2, 1, 1),
    ("ResNet 1x1 up", 8, 64, 56, 256, 1, 1, 0, 1), ("ResNet 1x1 down", 8, 256, 56, 64, 1, 1, 0, 1),
    ("ResNet 1x1 14", 8, 1024, 14, 256, 1, 1, 0, 1), ("ResNet 1x1 /2", 8, 256, 56, 512, 1, 2, 0, 1),
    ("VGG 3x3 112", 2, 128, 112, 128, 3, 1, 1, 1),
    ("depthwise 56", 8, 64, 56, 64, 3, 1, 1, 64), ("depthwise 14", 8, 256, 14, 256, 3, 1, 1, 256),
    ("depthwise /2", 8, 96, 112, 96, 3, 2, 1, 96),
]
POOLS = [("LeNet pool 1", 100, 20, 24, 0, 2, 2, 0, 1), ("LeNet pool 2", 100, 50, 8, 0, 2, 2, 0, 1),
         ("ResNet pool", 8, 64, 112, 0, 3, 2, 1, 1)]
CASES = [(s, what) for s in SHAPES for what in ("forward", "dx", "dw")] + \
        [(s, what) for s in POOLS for what in ("pool", "pool+back")]


def outputs(shape):
    _, _, _, extent, _, window, stride, padding, _ = shape
    return 1 + (extent + 2 * padding - window) // stride


def flops(case):
    shape, what = case
    _, batch, channels, extent, out, window, _, _, groups = shape
    if "pool" in what:
        return batch * channels * outputs(shape) ** 2 * window ** 2
    return 2.0 * batch * out * channels // groups * window ** 2 * outputs(shape) ** 2


def make(framework, case):
    import numpy as np
    shape, what = case
    _, batch, channels, extent, out, window, stride, padding, groups = shape
    r = np.random.default_rng(1)

    def normal(*s):
        return r.standard_normal(s).astype("float32")

    x = normal(batch, channels, extent, extent)
    y = outputs(shape)
    if framework == "knet":
        import knet
        from knet.ops import conv as ops
        x = knet.array(x)

        def run(call):
            return lambda: np.asarray(call())  # computed, not copied

        if "pool" in what:
            dy = knet.array(normal(batch, channels, y, y))
            options = {"window": (window, window), "stride": (stride, stride), "padding": (padding, padding)}

            def both():
                _, at = ops.maxpool(x, **options)
                return ops.plane_scatter(dy, at, spatial=(extent, extent))

            return run(both if what == "pool+back" else lambda: knet.pool(x, **options))
        w, dy = knet.array(normal(out, channels // groups, window, window)), knet.array(normal(batch, out, y, y))
        options = {"stride": (stride, stride), "padding": (padding, padding), "dilation": (1, 1), "groups": groups,
                   "flip": False}
        return run({"forward": lambda: ops.conv(x, w, **options),
                    "dx": lambda: ops.conv_dx(dy, w, **options, spatial=(extent, extent)),
                    "dw": lambda: ops.conv_dw(dy, x, **options, kernel=(window, window))}[what])
    import torch
    import torch.nn.functional as F
    layout = torch.channels_last if framework == "channels-last" else torch.contiguous_format

    def tensor(a):
        return torch.tensor(a).to(memory_format=layout)

    x = tensor(x)
    if "pool" in what:
        dy = tensor(normal(batch, channels, y, y))
        args = [window] * 2, [stride] * 2, [padding] * 2

        def both():
            _, at = torch.ops.aten.max_pool2d_with_indices(x, *args)
            return torch.ops.aten.max_pool2d_with_indices_backward(dy, x, *args, [1, 1], False, at)

        return both if what == "pool+back" else lambda: F.max_pool2d(x, window, stride, padding)
    w, dy = tensor(normal(out, channels // groups, window, window)), tensor(normal(batch, out, y, y))
    if what == "forward":
        return lambda: F.conv2d(x, w, None, stride, padding, 1, groups)
    mask = [what == "dx", what == "dw", False]
    return lambda: torch.ops.aten.convolution_backward(dy, x, w, [0], [stride] * 2, [padding] * 2, [1, 1], False,
                                                       [0, 0], groups, mask)


if __name__ == "__main__":
    interleave.main(__file__, make, ["knet", "torch", "channels-last"], CASES, lambda c: f"{c[0][0]} {c[1]}", flops,
                    __doc__)
