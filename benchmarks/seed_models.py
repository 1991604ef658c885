"""Training steps of the seed's five models: ours beside PyTorch, JAX, TensorFlow, MLX, tinygrad, autograd and NumPy.

    python benchmarks/seed_models.py [--models linreg,mlp] [--peers torch,compile,jax] [--threads N] [--rounds 3]

Every framework gets the same weights and data, does the same number of steps from them, and must arrive at the same
loss (checked to 1e-3 relative); then a step is timed: the median over `repeats` of the mean of a block of steps. Each
framework runs in processes of its own, with as many threads as we use and no variable set that chooses its kernels.
They take turns, `rounds` of them: on a shared machine a process may be slow from its first step to its last, by where
it runs. A peer gets its best idiomatic form, often several: PyTorch updates with fused foreach calls and for CharLM
uses nn.LSTM as well as a hand-written cell, both also compiled; JAX jits the whole step, donates its parameters and
scans over time, and (`scan`) runs a whole epoch of linreg and the MLP in one call, so that Python is not there at all;
TensorFlow has the step in a tf.function, tinygrad in a TinyJit (it needs clang), MLX plain and in mx.compile (its wheel
for Linux, 0.32.4, brings the reference BLAS: 4.5 GFLOP/s). NumPy's derivatives are written by hand. Those whose images
have their channels last (MLX, TensorFlow) get weights in that order. We write every model as plain Python, the LSTM
cell by hand.
A peer that is not installed, or takes longer than five minutes (100 time steps compiled one by one, say), is left out
with a word.
"""
import argparse
import json
import statistics
import time

import interleave

LR = {"linreg": 0.1, "softmax": 0.02, "mlp": 0.1, "lenet": 0.1, "charlm": 0.5}
CHECK_STEPS = {"linreg": 50, "softmax": 20, "mlp": 20, "lenet": 5, "charlm": 2}
BLOCK = {"linreg": 1000, "softmax": 500, "mlp": 300, "lenet": 10, "charlm": 1}
PATIENCE = 60  # seconds, after which a slow one is not repeated any more
# Seconds until the threads with which NumPy made the data have fallen asleep: they count for up to 0.1 s before they do.
SETTLE = 0.3
VOCAB, HIDDEN, TIME, BATCH = 84, 256, 100, 128


def problem(model):
    """NumPy weights (a list) and data (x, y) of one batch, the same for all."""
    import numpy as np
    r = np.random.default_rng(1)

    def normal(*shape, scale=0.1):
        return (scale * r.standard_normal(shape)).astype("float32")

    if model == "linreg":
        x = normal(506, 13, scale=1)
        return [normal(13, 1), np.zeros(1, "float32")], x, x @ normal(13, 1, scale=3) + normal(506, 1, scale=1) + 22
    if model in ("softmax", "mlp"):
        sizes = [784, 10] if model == "softmax" else [784, 64, 10]
        w = []
        for a, b in zip(sizes, sizes[1:]):
            w += [normal(a, b, scale=a ** -0.5), np.zeros(b, "float32")]
        return w, r.random((100, 784), dtype="float32"), r.integers(0, 10, 100)
    if model == "lenet":
        w = [normal(20, 1, 5, 5), np.zeros((1, 20, 1, 1), "float32"), normal(50, 20, 5, 5, scale=.05),
             np.zeros((1, 50, 1, 1), "float32"), normal(800, 500, scale=.03), np.zeros(500, "float32"),
             normal(500, 10, scale=.04), np.zeros(10, "float32")]
        return w, r.random((100, 1, 28, 28), dtype="float32"), r.integers(0, 10, 100)
    w = [normal(VOCAB, HIDDEN), normal(2 * HIDDEN, 4 * HIDDEN, scale=.04), np.zeros(4 * HIDDEN, "float32"),
         normal(HIDDEN, VOCAB), np.zeros(VOCAB, "float32")]
    text = r.integers(0, VOCAB, (TIME + 1, BATCH))
    return w, text[:-1], text[1:]


# ---- ours

def knet_step(model, form):
    import numpy as np

    import knet
    from knet import gradloss

    def predict(w, x):
        if model == "linreg" or model == "softmax":
            return x @ w[0] + w[1]
        if model == "mlp":
            return knet.relu(x @ w[0] + w[1]) @ w[2] + w[3]
        x = knet.pool(knet.relu(knet.conv4(w[0], x, mode=1) + w[1]))
        x = knet.pool(knet.relu(knet.conv4(w[2], x, mode=1) + w[3]))
        return knet.relu(knet.mat(x) @ w[4] + w[5]) @ w[6] + w[7]

    def cell(w, b, h, c, x):
        gates = knet.concatenate([x, h], axis=1) @ w + b
        n = HIDDEN
        f, i, o = knet.sigm(gates[:, :n]), knet.sigm(gates[:, n:2 * n]), knet.sigm(gates[:, 2 * n:3 * n])
        c = f * c + i * knet.tanh(gates[:, 3 * n:])
        return o * knet.tanh(c), c

    def loss(w, x, y):
        if model == "linreg":
            return ((predict(w, x) - y) ** 2).sum() / len(y)
        if model != "charlm":
            return knet.nll(predict(w, x), y)
        h = c = zero
        total = 0
        for t in range(TIME):
            h, c = cell(w[1], w[2], h, c, w[0][x[t]])
            total = total + knet.nll(h @ w[3] + w[4], y[t])
        return total / TIME

    w, x, y = problem(model)
    w = [knet.array(a) for a in w]
    x, y = (list(map(knet.array, x)), list(map(knet.array, y))) if model == "charlm" else (knet.array(x), knet.array(y))
    zero = knet.array(np.zeros((BATCH, HIDDEN), "float32"))
    lossgradient, lr = gradloss(loss), LR[model]

    def step():
        dw, value = lossgradient(w, x, y)
        for i in range(len(w)):
            w[i] -= lr * dw[i]
        return value

    return step, lambda v: v.item()


# ---- PyTorch

def torch_step(model, form):
    import torch
    import torch.nn.functional as F
    w, x, y = problem(model)
    w = [torch.tensor(a, requires_grad=True) for a in w]
    x, y = torch.tensor(x), torch.tensor(y)
    zero = torch.zeros(BATCH, HIDDEN)
    lr = LR[model]
    lstm = None
    if model == "charlm" and form.endswith("nn.LSTM"):  # our weights; its gate order is input, forget, cell, output
        lstm = torch.nn.LSTM(HIDDEN, HIDDEN)
        order = [1, 0, 3, 2]
        with torch.no_grad():
            blocks = [w[1][:, k * HIDDEN:(k + 1) * HIDDEN] for k in order]
            both = torch.cat(blocks, 1).t()
            lstm.weight_ih_l0.copy_(both[:, :HIDDEN])
            lstm.weight_hh_l0.copy_(both[:, HIDDEN:])
            lstm.bias_ih_l0.zero_()
            lstm.bias_hh_l0.zero_()
        lstm.bias_hh_l0.requires_grad_(False)  # one bias, as in the hand-written cell
        w = [w[0], *[p for p in lstm.parameters() if p.requires_grad], w[3], w[4]]

    def cell(h, c, x, w, b):
        f, i, o, n = (torch.cat([x, h], 1) @ w + b).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(n)
        return torch.sigmoid(o) * torch.tanh(c), c

    if form == "compiled cell":
        cell = torch.compile(cell)

    def loss_of(x, y):
        if model == "linreg":
            return ((x @ w[0] + w[1] - y) ** 2).sum() / len(y)
        if model == "softmax":
            return F.cross_entropy(x @ w[0] + w[1], y)
        if model == "mlp":
            return F.cross_entropy(F.relu(x @ w[0] + w[1]) @ w[2] + w[3], y)
        if model == "lenet":
            x = F.max_pool2d(F.relu(F.conv2d(x, w[0], w[1].flatten())), 2)
            x = F.max_pool2d(F.relu(F.conv2d(x, w[2], w[3].flatten())), 2)
            return F.cross_entropy(F.relu(x.flatten(1) @ w[4] + w[5]) @ w[6] + w[7], y)
        if lstm is not None:
            h, _ = lstm(w[0][x])
            return F.cross_entropy((h @ w[-2] + w[-1]).flatten(0, 1), y.flatten())
        h = c = zero
        total = 0
        for t in range(TIME):
            h, c = cell(h, c, w[0][x[t]], w[1], w[2])
            total = total + F.cross_entropy(h @ w[3] + w[4], y[t])
        return total / TIME

    if model == "lenet" and form == "channels-last":
        x = x.contiguous(memory_format=torch.channels_last)
        w = [p.detach().contiguous(memory_format=torch.channels_last).requires_grad_() if p.ndim == 4 else p for p in w]
    forward = torch.compile(loss_of) if form in ("compile", "compiled nn.LSTM") else loss_of

    def step():
        loss = forward(x, y)
        d = torch.autograd.grad(loss, w)
        with torch.no_grad():
            torch._foreach_add_(w, d, alpha=-lr)
        return loss

    return step, lambda v: v.item()


# ---- JAX

def jax_step(model, form):
    import jax
    import jax.numpy as jnp
    w, x, y = problem(model)
    w, x, y = [jnp.array(a) for a in w], jnp.array(x), jnp.array(y)
    lr = LR[model]

    def nll(scores, labels):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], 1))

    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")

    def pool(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    def loss_of(w, x, y):
        if model == "linreg":
            return ((x @ w[0] + w[1] - y) ** 2).sum() / len(y)
        if model == "softmax":
            return nll(x @ w[0] + w[1], y)
        if model == "mlp":
            return nll(jax.nn.relu(x @ w[0] + w[1]) @ w[2] + w[3], y)
        if model == "lenet":
            x = pool(jax.nn.relu(conv(x, w[0]) + w[1]))
            x = pool(jax.nn.relu(conv(x, w[2]) + w[3]))
            return nll(jax.nn.relu(x.reshape(len(x), -1) @ w[4] + w[5]) @ w[6] + w[7], y)

        def cell(state, x):
            h, c = state
            f, i, o, n = jnp.split(jnp.concatenate([x, h], 1) @ w[1] + w[2], 4, 1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(n)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((BATCH, HIDDEN))
        _, h = jax.lax.scan(cell, (zero, zero), w[0][x])
        return nll((h @ w[3] + w[4]).reshape(-1, VOCAB), y.reshape(-1))

    def update(w, x, y):
        loss, d = jax.value_and_grad(loss_of)(w, x, y)
        return loss, [a - lr * b for a, b in zip(w, d)]

    if form == "scan":
        def epoch(w, x, y, steps):
            def one(w, _):
                loss, w = update(w, x, y)
                return w, loss
            w, losses = jax.lax.scan(one, w, length=steps)
            return losses[-1], w
        call = jax.jit(epoch, static_argnums=3, donate_argnums=0)
    else:
        call = jax.jit(update, donate_argnums=0)

    state = [w]

    def step(*steps):
        loss, state[0] = call(state[0], x, y, *steps)
        return loss

    return step, lambda v: v.item()


# ---- TensorFlow

def tf_step(model, form):
    import tensorflow as tf
    w, x, y = problem(model)
    w = channels_last(model, w)
    x = x.transpose(0, 2, 3, 1) if model == "lenet" else x
    w, x, y = [tf.Variable(a) for a in w], tf.constant(x), tf.constant(y)
    lr = LR[model]

    def nll(scores, labels):
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores))

    def loss_of():
        if model == "linreg":
            return tf.reduce_sum((x @ w[0] + w[1] - y) ** 2) / len(y)
        if model == "softmax":
            return nll(x @ w[0] + w[1], y)
        if model == "mlp":
            return nll(tf.nn.relu(x @ w[0] + w[1]) @ w[2] + w[3], y)
        if model == "lenet":
            z = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, w[0], 1, "VALID") + w[1]), 2, 2, "VALID")
            z = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(z, w[2], 1, "VALID") + w[3]), 2, 2, "VALID")
            return nll(tf.nn.relu(tf.reshape(z, (len(x), -1)) @ w[4] + w[5]) @ w[6] + w[7], y)
        h = c = tf.zeros((BATCH, HIDDEN))
        total = 0.0
        for t in range(TIME):
            f, i, o, n = tf.split(tf.concat([tf.gather(w[0], x[t]), h], 1) @ w[1] + w[2], 4, 1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(n)
            h = tf.sigmoid(o) * tf.tanh(c)
            total += nll(h @ w[3] + w[4], y[t])
        return total / TIME

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of()
        for a, d in zip(w, tape.gradient(loss, w)):
            a.assign_sub(lr * tf.convert_to_tensor(d))
        return loss

    return step, lambda v: float(v)


def channels_last(model, w):
    """Weights for images whose channels are last in memory; filters (window, window, in, out)."""
    if model != "lenet":
        return w
    hidden = w[4].reshape(50, 4, 4, 500).transpose(1, 2, 0, 3).reshape(800, 500)
    return [w[0].transpose(2, 3, 1, 0), w[1].reshape(-1), w[2].transpose(2, 3, 1, 0), w[3].reshape(-1), hidden, *w[5:]]


# ---- MLX

def mlx_step(model, form):
    import mlx.core as mx
    import mlx.nn as nn
    w, x, y = problem(model)
    w = channels_last(model, w)
    if model == "lenet":
        x = x.transpose(0, 2, 3, 1)
        w = [w[0].transpose(3, 0, 1, 2), w[1], w[2].transpose(3, 0, 1, 2), *w[3:]]
    state, x, y = [mx.array(a) for a in w], mx.array(x), mx.array(y)
    pool = nn.MaxPool2d(2, 2)
    lr = LR[model]

    def nll(scores, labels):
        return nn.losses.cross_entropy(scores, labels, reduction="mean")

    def loss_of(w):
        if model == "linreg":
            return ((x @ w[0] + w[1] - y) ** 2).sum() / len(y)
        if model == "softmax":
            return nll(x @ w[0] + w[1], y)
        if model == "mlp":
            return nll(nn.relu(x @ w[0] + w[1]) @ w[2] + w[3], y)
        if model == "lenet":
            z = pool(nn.relu(mx.conv2d(x, w[0]) + w[1]))
            z = pool(nn.relu(mx.conv2d(z, w[2]) + w[3]))
            return nll(nn.relu(z.reshape(len(x), -1) @ w[4] + w[5]) @ w[6] + w[7], y)
        h = c = mx.zeros((BATCH, HIDDEN))
        total = 0
        for t in range(TIME):
            f, i, o, n = mx.split(mx.concatenate([w[0][x[t]], h], 1) @ w[1] + w[2], 4, 1)
            c = mx.sigmoid(f) * c + mx.sigmoid(i) * mx.tanh(n)
            h = mx.sigmoid(o) * mx.tanh(c)
            total = total + nll(h @ w[3] + w[4], y[t])
        return total / TIME

    def update(w):
        loss, d = mx.value_and_grad(loss_of)(w)
        return loss, [a - lr * b for a, b in zip(w, d)]

    call = mx.compile(update) if form == "compile" else update

    def step():
        nonlocal state
        loss, state = call(state)
        mx.eval(loss, state)
        return loss

    return step, lambda v: v.item()


# ---- tinygrad

def tinygrad_step(model, form):
    from tinygrad import Tensor, TinyJit
    w, x, y = problem(model)
    y = y if model == "linreg" else y.astype("int32")
    w, x, y = [Tensor(a).realize() for a in w], Tensor(x).realize(), Tensor(y).realize()
    lr = LR[model]

    def loss_of():
        if model == "linreg":
            return ((x @ w[0] + w[1] - y) ** 2).sum() / x.shape[0]
        if model == "softmax":
            return (x @ w[0] + w[1]).sparse_categorical_crossentropy(y)
        if model == "mlp":
            return ((x @ w[0] + w[1]).relu() @ w[2] + w[3]).sparse_categorical_crossentropy(y)
        if model == "lenet":
            z = (x.conv2d(w[0]) + w[1]).relu().max_pool2d(2)
            z = (z.conv2d(w[2]) + w[3]).relu().max_pool2d(2)
            return ((z.flatten(1) @ w[4] + w[5]).relu() @ w[6] + w[7]).sparse_categorical_crossentropy(y)
        h = c = Tensor.zeros(BATCH, HIDDEN)
        total = 0
        for t in range(TIME):
            f, i, o, n = (w[0][x[t]].cat(h, dim=1) @ w[1] + w[2]).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * n.tanh()
            h = o.sigmoid() * c.tanh()
            total = total + (h @ w[3] + w[4]).sparse_categorical_crossentropy(y[t])
        return total / TIME

    @TinyJit
    def step():
        loss = loss_of()
        new = [a - lr * d for a, d in zip(w, loss.gradient(*w))]
        Tensor.realize(loss, *[a.assign(b) for a, b in zip(w, new)])
        return loss

    return step, lambda v: v.item()


# ---- autograd, and NumPy with derivatives by hand

def autograd_step(model, form):
    import autograd.numpy as np
    from autograd import value_and_grad
    from autograd.scipy.special import logsumexp
    w, x, y = problem(model)
    lr = LR[model]

    def nll(scores, labels):
        return np.mean(logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels])

    def sigm(x):
        return 0.5 * np.tanh(0.5 * x) + 0.5

    def loss_of(w):
        if model == "linreg":
            return np.sum((x @ w[0] + w[1] - y) ** 2) / len(y)
        if model == "softmax":
            return nll(x @ w[0] + w[1], y)
        if model == "mlp":
            return nll(np.maximum(x @ w[0] + w[1], 0) @ w[2] + w[3], y)
        h = c = np.zeros((BATCH, HIDDEN), "float32")
        total = 0
        n = HIDDEN
        for t in range(TIME):
            gates = np.concatenate([w[0][x[t]], h], 1) @ w[1] + w[2]
            f, i, o = sigm(gates[:, :n]), sigm(gates[:, n:2 * n]), sigm(gates[:, 2 * n:3 * n])
            c = f * c + i * np.tanh(gates[:, 3 * n:])
            h = o * np.tanh(c)
            total = total + nll(h @ w[3] + w[4], y[t])
        return total / TIME

    value_and_gradient = value_and_grad(loss_of)

    def step():
        loss, d = value_and_gradient(w)
        for a, b in zip(w, d):
            a -= lr * b
        return loss

    return step, float


def numpy_step(model, form):
    import numpy as np
    w, x, y = problem(model)
    rows, lr = np.arange(len(y)), np.float32(LR[model])

    def nll(scores):
        """The loss and its derivative by the scores."""
        scores -= scores.max(1, keepdims=True)
        p = np.exp(scores)
        total = p.sum(1, keepdims=True)
        p /= total
        loss = (np.log(total[:, 0]) - scores[rows, y]).mean()
        p[rows, y] -= 1
        p /= len(y)
        return loss, p

    def step():
        if model == "linreg":
            e = x @ w[0] + w[1] - y
            loss = (e * e).sum() / len(y)
            e *= 2 / len(y)
            d = [x.T @ e, e.sum(0)]
        elif model == "softmax":
            loss, e = nll(x @ w[0] + w[1])
            d = [x.T @ e, e.sum(0)]
        else:
            h = np.maximum(x @ w[0] + w[1], 0)
            loss, e = nll(h @ w[2] + w[3])
            b = e @ w[2].T
            b *= h > 0
            d = [x.T @ b, b.sum(0), h.T @ e, e.sum(0)]
        for a, b in zip(w, d):
            b *= lr
            a -= b
        return loss

    return step, float


# Each framework's forms, and those of a model that has others.
FORMS = {"knet": ["plain"], "torch": ["eager"], "compile": ["compile"], "jax": ["jit"], "tf": ["function"],
         "mlx": ["plain", "compile"], "tinygrad": ["jit"], "autograd": ["numpy"], "numpy": ["hand"]}
OTHERS = {("torch", "lenet"): ["eager", "channels-last"], ("torch", "charlm"): ["hand", "nn.LSTM"],
          ("compile", "charlm"): ["compiled cell", "compiled nn.LSTM"],
          ("jax", "linreg"): ["jit", "scan"], ("jax", "mlp"): ["jit", "scan"],
          ("autograd", "lenet"): [],  # it has no convolution to speak of
          ("numpy", "lenet"): [], ("numpy", "charlm"): []}
PEERS = [name for name in FORMS if name != "knet"]
STEPS = {"knet": knet_step, "torch": torch_step, "compile": torch_step, "jax": jax_step, "tf": tf_step, "mlx": mlx_step,
         "tinygrad": tinygrad_step, "autograd": autograd_step, "numpy": numpy_step}


def runner(framework, model, form):
    """A function that does n steps and returns the last loss, and one that reads a loss."""
    step, item = STEPS[framework](model, form)
    if form == "scan":
        return step, item

    def run(n):
        for _ in range(n):
            value = step()
        return value

    return run, item


def worker(framework, model, form, threads, repeats):
    interleave.settle(framework, threads)
    run, item = runner(framework, model, form)
    time.sleep(SETTLE)
    start = time.perf_counter()
    loss = item(run(CHECK_STEPS[model]))
    first = time.perf_counter() - start
    item(run(BLOCK[model]))  # not counted: a scan is compiled for its number of steps
    times = []
    while len(times) < repeats and sum(times) * BLOCK[model] < PATIENCE:
        start = time.perf_counter()
        item(run(BLOCK[model]))
        times.append((time.perf_counter() - start) / BLOCK[model])
    print(json.dumps({"loss": loss, "ms": statistics.median(times) * 1e3, "min": min(times) * 1e3, "first": first}))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--models", default="linreg,softmax,mlp,lenet,charlm")
    p.add_argument("--peers", default=",".join(PEERS), help=f"some of {', '.join(PEERS)}; each runs in all its forms")
    p.add_argument("--threads", type=int, default=interleave.CORES)
    p.add_argument("--repeats", type=int, default=7)
    p.add_argument("--rounds", type=int, default=3, help="so many processes of each, in turn")
    p.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return worker(*args.worker, args.threads, args.repeats)
    peers = [name for name in args.peers.split(",") if name]
    if unknown := set(peers) - set(PEERS):
        p.error(f"unknown peers: {', '.join(sorted(unknown))}. Choose from {', '.join(PEERS)}.")
    print(f"{args.threads} threads; milliseconds per training step, median of {args.rounds} processes' medians of "
          f"{args.repeats}, in brackets the least")
    for model in args.models.split(","):
        contestants = [(framework, form) for framework in ["knet", *peers]
                       for form in OTHERS.get((framework, model), FORMS[framework])]

        def ask(framework, form):
            return interleave.alone(__file__, framework, model, form, "--repeats", str(args.repeats),
                                    threads=args.threads)

        ours = None
        for (framework, form), known in interleave.in_turn(contestants, ask, args.rounds).items():
            name = f"{model:8} {framework + ' ' + form:24}"
            if isinstance(known, str):
                print(f"{name} {known}", flush=True)
                continue
            ms, loss = statistics.median(r["ms"] for r in known), known[0]["loss"]
            first = statistics.median(r["first"] for r in known)
            ours = ours or (ms, loss)
            agree = "" if abs(loss - ours[1]) <= 1e-3 * abs(ours[1]) else "  LOSS DIFFERS"
            print(f"{name} {ms:9.4f} ms ({min(r['min'] for r in known):.4f})  loss {loss:.6f}  first {first:6.2f} s  "
                  f"{ms / ours[0]:6.2f} x ours{agree}", flush=True)


if __name__ == "__main__":
    main()
