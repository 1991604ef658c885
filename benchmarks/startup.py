"""Import time, and a cold interpreter to the first MLP gradient; ours beside the peers that are installed.

    python benchmarks/startup.py

Each figure is the median of seven fresh interpreters, less that of an interpreter that does nothing. NumPy's own import is shown
beside, for those who subtract it.
"""
import statistics
import subprocess
import sys
import time

import interleave

FIRST = {
    "knet": """
import numpy as np, knet
r = np.random.default_rng(0)
w = [r.random((784, 64), dtype='float32'), np.zeros(64, 'float32'), r.random((64, 10), dtype='float32'), np.zeros(10, 'float32')]
loss = lambda w, x, y: knet.nll(knet.relu(x @ w[0] + w[1]) @ w[2] + w[3], y)
knet.grad(loss)(w, r.random((100, 784), dtype='float32'), r.integers(0, 10, 100))[0][0, 0]
""",
    "torch": """
import torch
w = [torch.rand(784, 64), torch.zeros(64), torch.rand(64, 10), torch.zeros(10)]
[p.requires_grad_() for p in w]
y = torch.relu(torch.rand(100, 784) @ w[0] + w[1]) @ w[2] + w[3]
torch.nn.functional.cross_entropy(y, torch.randint(10, (100,))).backward()
w[0].grad[0, 0].item()
""",
    "jax": """
import jax, jax.numpy as jnp, numpy as np
r = np.random.default_rng(0)
w = [r.random((784, 64), dtype='float32'), np.zeros(64, 'float32'), r.random((64, 10), dtype='float32'), np.zeros(10, 'float32')]
def loss(w, x, y):
    z = jax.nn.log_softmax(jax.nn.relu(x @ w[0] + w[1]) @ w[2] + w[3])
    return -jnp.mean(jnp.take_along_axis(z, y[:, None], 1))
jax.jit(jax.grad(loss))(w, r.random((100, 784), dtype='float32'), r.integers(0, 10, 100))[0][0, 0].item()
""",
    "mlx": """
import mlx.core as mx, mlx.nn as nn
w = [mx.random.uniform(shape=(784, 64)), mx.zeros(64), mx.random.uniform(shape=(64, 10)), mx.zeros(10)]
x, y = mx.random.uniform(shape=(100, 784)), mx.zeros(100, mx.int32)
loss = lambda w: nn.losses.cross_entropy(mx.maximum(x @ w[0] + w[1], 0) @ w[2] + w[3], y).mean()
mx.grad(loss)(w)[0][0, 0].item()
""",
}
IMPORT = {"knet": "import knet", "torch": "import torch", "jax": "import jax", "mlx": "import mlx.core"}


def seconds(code):
    times = []
    for _ in range(7):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", code], env=interleave.environment("", interleave.CORES), capture_output=True)
        times.append(time.perf_counter() - start)
        if run.returncode:
            return None
    return statistics.median(times)


if __name__ == "__main__":
    nothing = seconds("pass")
    print(f"an interpreter that does nothing {nothing * 1e3:.0f} ms; NumPy's import {(seconds('import numpy') - nothing) * 1e3:.0f} ms")
    for name in FIRST:
        a, b = seconds(IMPORT[name]), seconds(FIRST[name])
        if a is None or b is None:
            print(f"{name:6} is not installed, or failed")
            continue
        print(f"{name:6} import {(a - nothing) * 1e3:6.0f} ms   import to first MLP gradient {(b - nothing) * 1e3:6.0f} ms")
