"""Training steps of the seed's five models: ours beside PyTorch (eager, compiled) and JAX (jit).

    python benchmarks/seed_models.py [--models linreg,mlp] [--peers torch,compile,jax] [--threads N] [--repeats 7]

Every framework gets the same weights and data, does the same number of steps from them, and must arrive at the same loss
(checked to 1e-3 relative); then a step is timed: the median over `repeats` of the mean of a block of steps. Each framework runs
in a process of its own, with as many threads as we use and no variable set that chooses its kernels. A peer gets its best
idiomatic form: PyTorch updates with fused foreach calls and for CharLM uses nn.LSTM as well as a hand-written cell; JAX jits
the whole step, donates its parameters and scans over time. We write every model as plain Python, the LSTM cell by hand.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LR = {"linreg": 0.1, "softmax": 0.02, "mlp": 0.1, "lenet": 0.1, "charlm": 0.5}
CHECK_STEPS = {"linreg": 50, "softmax": 20, "mlp": 20, "lenet": 5, "charlm": 2}
BLOCK = {"linreg": 1000, "softmax": 500, "mlp": 300, "lenet": 10, "charlm": 1}
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

def knet_step(model):
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
    if model == "charlm" and form != "hand":  # nn.LSTM with our weights; its gate order is input, forget, cell, output
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
            f, i, o, n = (torch.cat([w[0][x[t]], h], 1) @ w[1] + w[2]).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(n)
            h = torch.sigmoid(o) * torch.tanh(c)
            total = total + F.cross_entropy(h @ w[3] + w[4], y[t])
        return total / TIME

    if model == "lenet" and form == "channels-last":
        x = x.contiguous(memory_format=torch.channels_last)
        w = [p.detach().contiguous(memory_format=torch.channels_last).requires_grad_() if p.ndim == 4 else p for p in w]
    forward = torch.compile(loss_of) if form.startswith("compile") else loss_of

    def step():
        loss = forward(x, y)
        d = torch.autograd.grad(loss, w)
        with torch.no_grad():
            torch._foreach_add_(w, d, alpha=-lr)
        return loss

    return step, lambda v: v.item()


# ---- JAX

def jax_step(model):
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

    @jax.jit
    def update(w, x, y):
        loss, d = jax.value_and_grad(loss_of)(w, x, y)
        return loss, [a - lr * b for a, b in zip(w, d)]

    state = [w]

    def step():
        loss, state[0] = update(state[0], x, y)
        return loss

    return step, lambda v: v.item()


FORMS = {"knet": ["plain"], "torch": ["eager"], "compile": ["compile"], "jax": ["jit"]}


def worker(model, framework, form, threads, repeats):
    if framework == "knet":
        import knet
        knet.config.threads = threads
        step, item = knet_step(model)
    elif framework in ("torch", "compile"):
        import torch
        torch.set_num_threads(threads)
        step, item = torch_step(model, form)
    else:
        step, item = jax_step(model)
    start = time.perf_counter()
    for _ in range(CHECK_STEPS[model]):
        value = step()
    loss = item(value)
    first = time.perf_counter() - start
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(BLOCK[model]):
            value = step()
        item(value)
        times.append((time.perf_counter() - start) / BLOCK[model])
    print(json.dumps({"loss": loss, "ms": statistics.median(times) * 1e3, "min": min(times) * 1e3, "first": first}))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--models", default="linreg,softmax,mlp,lenet,charlm")
    p.add_argument("--peers", default="torch,compile,jax")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--repeats", type=int, default=7)
    p.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return worker(*args.worker, args.threads, args.repeats)
    env = {k: v for k, v in os.environ.items()
           if k not in ("OPENBLAS_CORETYPE", "MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    print(f"{args.threads} threads; milliseconds per training step, median of {args.repeats}; best peer = the fastest form that ran")
    for model in args.models.split(","):
        rows = []
        for framework in ["knet", *args.peers.split(",")]:
            forms = FORMS[framework]
            if model == "lenet" and framework == "torch":
                forms = ["eager", "channels-last"]
            if model == "charlm" and framework == "torch":
                forms = ["hand", "nn.LSTM"]
            for form in forms:
                run = subprocess.run([sys.executable, __file__, "--threads", str(args.threads), "--repeats", str(args.repeats),
                                      "--worker", model, framework, form], env=env, capture_output=True, text=True)
                if run.returncode:
                    print(f"  {model}: {framework} {form} did not run: {run.stderr.strip().splitlines()[-1:]}")
                    continue
                rows.append((framework, form, json.loads(run.stdout.strip().splitlines()[-1])))
        ours = rows[0][2] if rows and rows[0][0] == "knet" else None
        for framework, form, r in rows:
            ratio = f"{r['ms'] / ours['ms']:6.2f} x ours" if ours else ""
            agree = "" if ours is None or abs(r["loss"] - ours["loss"]) <= 1e-3 * abs(ours["loss"]) else "  LOSS DIFFERS"
            print(f"{model:8} {framework + ' ' + form:20} {r['ms']:9.4f} ms (min {r['min']:.4f})  loss {r['loss']:.6f}  "
                  f"first {r['first']:6.2f} s  {ratio}{agree}", flush=True)


if __name__ == "__main__":
    main()
