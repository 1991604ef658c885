"""A recurrent network in a plain loop over 39 sequence lengths: what a new shape costs.

    python benchmarks/lengths.py [--threads N]

Hidden 128, batch 32, lengths 5 to 43 in random order, 200 batches an epoch, forward, backward and update. The first epoch meets
every length for the first time. Seconds per epoch; PyTorch eager and JAX (jit of the plain loop, one compilation a length) beside.
"""
import argparse
import os
import random
import time

HIDDEN, BATCH, BATCHES = 128, 32, 200


def lengths():
    r = random.Random(1)
    first = list(range(5, 44))
    r.shuffle(first)
    return first + [r.choice(first) for _ in range(BATCHES - len(first))]


def data():
    import numpy as np
    r = np.random.default_rng(1)
    w = [(r.standard_normal(s) * .08).astype("float32") for s in ((HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (1, HIDDEN))]
    return w, [(r.standard_normal((t, BATCH, HIDDEN)) * .5).astype("float32") for t in lengths()]


def report(name, epoch):
    times = []
    for _ in range(3):
        start = time.perf_counter()
        loss = epoch()
        times.append(time.perf_counter() - start)
    print(f"{name:6} first epoch {times[0]:.3f} s, second {times[1]:.3f} s, third {times[2]:.3f} s; "
          f"first / second {times[0] / times[1]:.2f}; loss {loss:.6f}")


def ours(threads):
    import knet
    knet.config.threads = threads
    w, batches = data()
    w = [knet.array(a) for a in w]
    batches = [knet.array(x) for x in batches]

    def loss(w, x):
        h = knet.zeros((BATCH, HIDDEN))
        for t in range(len(x)):
            h = knet.tanh(x[t] @ w[0] + h @ w[1] + w[2])
        return (h * h).mean()
    lossgradient = knet.gradloss(loss)

    def epoch():
        for x in batches:
            d, value = lossgradient(w, x)
            for i in range(3):
                w[i] -= 0.1 * d[i]
        return value.item()
    report("knet", epoch)


def torch(threads):
    import torch
    torch.set_num_threads(threads)
    w, batches = data()
    w = [torch.tensor(a, requires_grad=True) for a in w]
    batches = [torch.tensor(x) for x in batches]

    def epoch():
        for x in batches:
            h = torch.zeros(BATCH, HIDDEN)
            for xt in x:
                h = torch.tanh(xt @ w[0] + h @ w[1] + w[2])
            value = (h * h).mean()
            d = torch.autograd.grad(value, w)
            with torch.no_grad():
                torch._foreach_add_(w, d, alpha=-0.1)
        return value.item()
    report("torch", epoch)


def jax(threads):
    import jax
    import jax.numpy as jnp
    w, batches = data()
    state = [[jnp.array(a) for a in w]]
    batches = [jnp.array(x) for x in batches]

    def loss(w, x):
        h = jnp.zeros((BATCH, HIDDEN))
        for t in range(len(x)):
            h = jnp.tanh(x[t] @ w[0] + h @ w[1] + w[2])
        return (h * h).mean()

    @jax.jit
    def update(w, x):
        value, d = jax.value_and_grad(loss)(w, x)
        return value, [a - 0.1 * b for a, b in zip(w, d)]

    def epoch():
        for x in batches:
            value, state[0] = update(state[0], x)
        return value.item()
    report("jax", epoch)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    threads = p.parse_args().threads
    for peer in (ours, torch, jax):
        try:
            peer(threads)
        except ImportError:
            print(f"{peer.__name__} is not installed")
