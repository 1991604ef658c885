"""What recording costs: microseconds per operation on ten elements, ours beside PyTorch and MLX.

    python benchmarks/recording.py

`record`: a chain of 1000 additions is only recorded (ours, MLX) or run (PyTorch has nothing to record). `replay`: the same chain
recorded, run as a known plan and read. `gradient`: forward and backward of the chain, known plan, per operation.
Medians of 200 chains.
"""
import gc
import statistics
import time

N = 1000


def median(f, repeats=200, after=None):
    times = []
    gc.disable()
    for _ in range(repeats):
        start = time.perf_counter()
        y = f()
        times.append(time.perf_counter() - start)
        if after:
            after(y)
    gc.enable()
    return statistics.median(times) / N * 1e6


def chain(x):
    y = x
    for _ in range(N):
        y = y + x
    return y


def python_floor():
    """The loop itself, on a type whose addition does nothing."""
    class Nothing:
        __slots__ = ()

        def __add__(self, other):
            return self
    nothing = Nothing()
    return median(lambda: chain(nothing))


def ours():
    import knet
    x = knet.array([1.0] * 10)
    read = lambda y: y.numpy()
    for _ in range(3):
        read(chain(x))
    d = knet.grad(lambda x: chain(x).sum())
    d(x)
    return {"record": median(lambda: chain(x), after=read), "replay": median(lambda: read(chain(x))),
            "gradient": median(lambda: d(x))}


def torch():
    import torch
    torch.set_num_threads(1)
    x = torch.ones(10, requires_grad=True)
    with torch.no_grad():
        record = median(lambda: chain(x))

    def gradient():
        return torch.autograd.grad(chain(x).sum(), x)
    return {"record": record, "replay": record, "gradient": median(gradient)}


def mlx():
    import mlx.core as mx
    x = mx.ones(10)
    d = mx.grad(lambda x: chain(x).sum())
    return {"record": median(lambda: chain(x), after=mx.eval), "replay": median(lambda: mx.eval(chain(x))),
            "gradient": median(lambda: mx.eval(d(x)))}


if __name__ == "__main__":
    print(f"the Python loop itself {python_floor():.3f} us an operation (an addition written in Python)")
    for name, peer in (("knet", ours), ("torch", torch), ("mlx", mlx)):
        try:
            row = peer()
        except ImportError:
            print(f"{name:6} is not installed")
            continue
        print(f"{name:6} " + "  ".join(f"{what} {us:.3f} us" for what, us in row.items()))
