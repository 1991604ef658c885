"""Matrix products of the seed's five models, and large ones: ours beside NumPy (OpenBLAS) and PyTorch (MKL).

    python benchmarks/products.py [--threads 1,4] [--repeats 15] [--least] [--only 512x]

Every product is written as a user would write it, result allocated: what recording and running cost is part of our
time. Labels: m x k x n; `aT`: the first factor is a transposed matrix (as in the weights' gradient), `bT`: the second
is (as in the input's gradient).
"""
import interleave

MODELS = [  # (m, k, n, layout)
    # CharLM: the cell, the prediction
    (128, 512, 1024, ""), (128, 1024, 512, "bT"), (512, 128, 1024, "aT"), (512, 12800, 1024, "aT"),
    (128, 256, 84, ""), (128, 84, 256, "bT"), (256, 12800, 84, "aT"),
    # LeNet
    (100, 800, 500, ""), (100, 500, 800, "bT"), (800, 100, 500, "aT"), (100, 500, 10, ""), (500, 100, 10, "aT"),
    # MLP, softmax, linreg
    (100, 784, 64, ""), (784, 100, 64, "aT"), (100, 64, 10, ""), (100, 10, 64, "bT"), (64, 100, 10, "aT"),
    (100, 784, 10, ""), (784, 100, 10, "aT"),
    (506, 13, 1, ""), (13, 506, 1, "aT"),
]
LARGE = [(n, n, n, layout) for n in (256, 512, 1024, 2048) for layout in ("", "bT", "aT")]


def make(framework, case):
    m, k, n, layout = case
    import numpy as np
    r = np.random.default_rng(1)
    a = r.standard_normal((k, m) if layout == "aT" else (m, k)).astype("float32")
    b = r.standard_normal((n, k) if layout == "bT" else (k, n)).astype("float32")
    if framework == "numpy":
        a, b = a.T if layout == "aT" else a, b.T if layout == "bT" else b
        return lambda: a @ b
    if framework == "torch":
        import torch
        a, b = torch.tensor(a), torch.tensor(b)
        a, b = a.T if layout == "aT" else a, b.T if layout == "bT" else b
        return lambda: a @ b
    import knet
    a, b = knet.array(a), knet.array(b)
    if layout == "aT":
        return lambda: np.asarray(a.T @ b)
    if layout == "bT":
        return lambda: np.asarray(a @ b.T)
    return lambda: np.asarray(a @ b)  # computed, not copied


if __name__ == "__main__":
    interleave.main(__file__, make, ["knet", "numpy", "torch"], MODELS + LARGE,
                    lambda c: f"{c[0]}x{c[1]}x{c[2]} {c[3]}", lambda c: 2.0 * c[0] * c[1] * c[2], __doc__)
