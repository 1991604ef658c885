"""Reductions, gathers, scatters, transposes, joins, sorts: ours beside NumPy, PyTorch and a plain copy, in GB/s.

    python benchmarks/kernels.py [--threads 1,4] [--repeats 15] [--only sum]

All arrays are float32 and most larger than the caches, indices int64 and drawn at random. The bytes of a case are those
of its arguments that must be read, once, and of its result, written once; `copy` moves as many with NumPy, each thread
a part. (A product with one-hot rows counts as the gather that it is.) Results are compared element by element. The row
`sum of 10 million uniforms` ends with each one's relative error, against math.fsum.
"""
import concurrent.futures
import math

import interleave

N, ROWS, WIDTH, CLASSES = 4096, 100000, 128, 10000
CUBE, IMAGES, HEADS = (256, 256, 256), (64, 64, 64, 64), (64, 256, 12, 64)
SUM = "sum of 10 million uniforms"
SQUARE = 4 * N * N

# name: kind, what it is of, bytes
CASES = {
    SUM: ("sum", 10 ** 7, None, 4 * 10 ** 7),
    "sum 4096x4096": ("sum", (N, N), None, SQUARE),
    "sum 4096x4096 axis 0": ("sum", (N, N), 0, SQUARE),
    "sum 4096x4096 axis 1": ("sum", (N, N), 1, SQUARE),
    "sum 256x256x256 axis 1": ("sum", CUBE, 1, 4 * math.prod(CUBE)),
    "sum 64x64x64x64 axes 0, 2, 3": ("sum", IMAGES, (0, 2, 3), 4 * math.prod(IMAGES)),
    "max 4096x4096 axis 0": ("max", (N, N), 0, SQUARE),
    "max 4096x4096 axis 1": ("max", (N, N), 1, SQUARE),
    "argmax 4096x4096 axis 0": ("argmax", (N, N), 0, SQUARE),
    "argmax 4096x4096 axis 1": ("argmax", (N, N), 1, SQUARE),
    "gather 100000 rows of 512 B": ("gather", (ROWS, WIDTH), ROWS, ROWS * (8 + 8 * WIDTH)),
    "gather a million rows of 16 B": ("gather", (10 ** 6, 4), 10 ** 6, 10 ** 6 * (8 + 8 * 4)),
    "gather 4 million of 16": ("gather", (N * N,), N * N // 4, N * N // 4 * (8 + 8)),
    "scatter-add 100000 rows of 512 B": ("scatter", (ROWS, WIDTH), ROWS, ROWS * (8 + 8 * WIDTH)),
    "scatter-add 4 million to 1": ("scatter", (N * N // 16,), N * N // 4, N * N // 4 * (8 + 4) + N * N // 16 * 4),
    "transpose 4096x4096": ("transpose", (N, N), (1, 0), 2 * SQUARE),
    "transpose 256x256x256 0, 2, 1": ("transpose", CUBE, (0, 2, 1), 8 * math.prod(CUBE)),
    "transpose 256x256x256 2, 1, 0": ("transpose", CUBE, (2, 1, 0), 8 * math.prod(CUBE)),
    "transpose images 0, 2, 3, 1": ("transpose", IMAGES, (0, 2, 3, 1), 8 * math.prod(IMAGES)),
    "transpose heads 0, 2, 1, 3": ("transpose", HEADS, (0, 2, 1, 3), 8 * math.prod(HEADS)),
    "concatenate 4 of 1024x4096 axis 0": ("concatenate", (N // 4, N), 0, 2 * SQUARE),
    "concatenate 4 of 4096x1024 axis 1": ("concatenate", (N, N // 4), 1, 2 * SQUARE),
    "one-hot 4096x10000 @ 10000x256": ("one-hot", (CLASSES, 256), N, N * (8 + 8 * 256)),
    "sort 4096 rows of 4096": ("sort", (N, N), -1, 2 * SQUARE),
    "sort a million": ("sort", (10 ** 6,), -1, 8 * 10 ** 6),
    "top 10 of 4096 rows of 4096": ("top", (N, N), 10, SQUARE),
}


def make(framework, name):
    """Each call gives a list of one array."""
    import numpy as np
    kind, shape, how, size = CASES[name]
    if framework == "copy":
        return copy(size)
    r = np.random.default_rng(1)
    x = r.random(shape, dtype="float32")
    if kind in ("gather", "scatter"):
        i = r.integers(0, shape[0], how)
        values = r.random((how, *shape[1:]), dtype="float32") if kind == "scatter" else None
    if kind == "one-hot":
        i = r.integers(0, CLASSES, how)
    parts = [r.random(shape, dtype="float32") for _ in range(4)] if kind == "concatenate" else []

    if framework == "numpy":
        def scatter():
            y = np.zeros(shape, "float32")
            np.add.at(y, i, values)
            return y

        call = {"sum": lambda: x.sum(how), "max": lambda: x.max(how), "argmax": lambda: x.argmax(how),
                "gather": lambda: x[i], "scatter": scatter,
                "transpose": lambda: x.transpose(how).copy(),
                "concatenate": lambda: np.concatenate(parts, how),
                "one-hot": lambda: np.eye(CLASSES, dtype="float32")[i] @ x,
                "sort": lambda: np.sort(x, how),
                "top": lambda: -np.sort(np.partition(-x, how - 1, -1)[:, :how], -1)}[kind]
        return lambda: [call()]

    if framework == "torch":
        import torch
        x = torch.tensor(x)
        if kind in ("gather", "scatter", "one-hot"):
            i = torch.tensor(i)
        if kind == "scatter":
            values = torch.tensor(values)
        parts = [torch.tensor(a) for a in parts]
        axes = () if how is None else how
        call = {"sum": lambda: x.sum(axes), "max": lambda: x.amax(how), "argmax": lambda: x.argmax(how),
                "gather": lambda: x[i], "scatter": lambda: torch.zeros(shape).index_add_(0, i, values),
                "transpose": lambda: x.permute(how).contiguous(),
                "concatenate": lambda: torch.cat(parts, how),
                "one-hot": lambda: torch.nn.functional.one_hot(i, CLASSES).float() @ x,
                "sort": lambda: torch.sort(x, how)[0],
                "top": lambda: torch.topk(x, how)[0]}[kind]
        return lambda: [call()]

    import knet
    x = knet.array(x)
    if kind in ("gather", "scatter", "one-hot"):
        i = knet.array(i)
    if kind == "scatter":
        values = knet.array(values)
    parts = [knet.array(a) for a in parts]
    call = {"sum": lambda: x.sum(how), "max": lambda: x.max(how), "argmax": lambda: x.argmax(how),
            "gather": lambda: x[i], "scatter": lambda: knet.index_add(knet.zeros(shape), i, values),
            "transpose": lambda: x.transpose(how),
            "concatenate": lambda: knet.concatenate(parts, axis=how),
            "one-hot": lambda: knet.one_hot(i, CLASSES, dtype="float32") @ x,
            "sort": lambda: knet.sort(x, how),
            "top": lambda: knet.topk(x, how)[0]}[kind]
    return lambda: [np.asarray(call())]  # runs, and copies nothing


def copy(size):
    """Half of the bytes read, half written, always to the same place: the system gives no new pages."""
    import numpy as np
    source, y = np.ones(size // 8, "float32"), np.zeros(size // 8, "float32")
    cuts = [len(source) * k // interleave.threads for k in range(interleave.threads + 1)]
    pool = concurrent.futures.ThreadPoolExecutor(interleave.threads)

    def call():
        if interleave.threads == 1:
            np.copyto(y, source)
        else:
            list(pool.map(lambda a, b: np.copyto(y[a:b], source[a:b]), cuts, cuts[1:]))

    return call


def check(name, results):
    import numpy as np
    if name == SUM:
        exact = math.fsum(np.random.default_rng(1).random(10 ** 7, dtype="float32").tolist())
        return "errors " + ", ".join(f"{f} {abs(float(y) - exact) / exact:.1e}" for f, (y,) in results.items())
    (ours,) = results["knet"]
    for f, (y,) in results.items():
        if y.shape != ours.shape or not np.allclose(y, ours, rtol=1e-4):
            return f"{f} DIFFERS"
    return ""


if __name__ == "__main__":
    interleave.main(__file__, make, ["knet", "numpy", "torch", "copy"], list(CASES), str, lambda name: CASES[name][3],
                    __doc__, unit="GB/s", check=check, apart=["copy"])
