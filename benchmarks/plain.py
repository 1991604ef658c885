"""Plain Python against their C++: formulas of a page, forward and backward, beside PyTorch's own function for each.

    python benchmarks/plain.py [--threads 1,4] [--repeats 15] [--only norm]

Ours are the textbook's formulas in array operations, nothing fused by hand. JAX jits the very same formulas (its LSTM
scans over time). PyTorch calls the function that it has in C++: nn.LSTM, F.layer_norm, scaled_dot_product_attention,
Adam(fused=True) and so on. A call gives the result and the gradients by every input for the same incoming gradient;
Adam takes a step. Before a row is timed, results and gradients of all are compared, element by element; the row ends
with the largest difference, relative to the largest element. Dropout's must be right each by itself: its own share of
zeros, its own gradient.
"""
import functools
import math

import interleave

STEPS, BATCH, HIDDEN = 50, 128, 256
RATE = 0.1


# ---- the formulas; m is knet or jax.numpy, r what the two name differently

def lstm(m, r, x, wx, wh, b):
    h = c = m.zeros((BATCH, HIDDEN), dtype="float32")

    def cell(h, c, x):
        gates = x @ wx + h @ wh + b
        i, f, o = (1 / (1 + m.exp(-gates[:, k * HIDDEN:(k + 1) * HIDDEN])) for k in (0, 1, 3))
        c = f * c + i * m.tanh(gates[:, 2 * HIDDEN:3 * HIDDEN])
        return o * m.tanh(c), c

    return r.loop(cell, h, c, x)


def layer_norm(m, r, x, scale, shift):
    d = x - x.mean(axis=-1, keepdims=True)
    return d / m.sqrt((d * d).mean(axis=-1, keepdims=True) + 1e-5) * scale + shift


def rms_norm(m, r, x, scale):
    return x / m.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * scale


def batch_norm(m, r, x, scale, shift):
    d = x - x.mean(axis=(0, 2, 3), keepdims=True)
    return d / m.sqrt((d * d).mean(axis=(0, 2, 3), keepdims=True) + 1e-5) * scale[:, None, None] + shift[:, None, None]


def group_norm(m, r, x, scale, shift):
    groups = x.reshape(len(x), 32, -1)
    d = groups - groups.mean(axis=-1, keepdims=True)
    y = d / m.sqrt((d * d).mean(axis=-1, keepdims=True) + 1e-5)
    return y.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]


def log_sum_exp(m, r, x):
    top = r.constant(x.max(axis=-1, keepdims=True))
    return m.log(m.exp(x - top).sum(axis=-1)) + top[:, 0]


def cross_entropy(m, r, x, labels):
    return (log_sum_exp(m, r, x) - x[m.arange(len(x)), labels]).mean()


def attention(m, r, q, k, v):
    n = q.shape[-2]
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    scores = m.where(m.arange(n)[:, None] >= m.arange(n), scores, -math.inf)
    p = m.exp(scores - r.constant(scores.max(axis=-1, keepdims=True)))
    return p / p.sum(axis=-1, keepdims=True) @ v


def gelu(m, r, x):
    return x * (1 + r.erf(x / math.sqrt(2))) / 2


def dropout(m, r, x):
    return m.where(r.uniform(x.shape) < RATE, 0, x / (1 - RATE))


def embedding(m, r, table, indices):
    return table[indices]


def adam(m, w, g, state, t):
    """One step for a list of parameters; the new ones and the new state."""
    new, states = [], []
    for x, d, (mean, square) in zip(w, g, state):
        mean = 0.9 * mean + 0.1 * d
        square = 0.999 * square + 0.001 * d * d
        new.append(x - 0.001 * (mean / (1 - 0.9 ** t)) / (m.sqrt(square / (1 - 0.999 ** t)) + 1e-8))
        states.append((mean, square))
    return new, states


IMAGES, ROWS = (32, 64, 56, 56), (4096, 768)
# name: formula, shapes of the inputs (an integer: indices below it, of the shape that follows), shape of the result
CASES = {
    "LSTM 50x128x256": (lstm, [(STEPS, BATCH, HIDDEN), (HIDDEN, 4 * HIDDEN), (HIDDEN, 4 * HIDDEN), (4 * HIDDEN,)],
                        (STEPS, BATCH, HIDDEN)),
    "batch norm 32x64x56x56": (batch_norm, [IMAGES, (64,), (64,)], IMAGES),
    "layer norm 4096x768": (layer_norm, [ROWS, (768,), (768,)], ROWS),
    "group norm 32x64x56x56": (group_norm, [IMAGES, (64,), (64,)], IMAGES),
    "RMS norm 4096x768": (rms_norm, [ROWS, (768,)], ROWS),
    "cross-entropy 1024x10000": (cross_entropy, [(1024, 10000), 10000, (1024,)], ()),
    "log-sum-exp 1024x10000": (log_sum_exp, [(1024, 10000)], (1024,)),
    "attention 8x12x256x64": (attention, [(8, 12, 256, 64)] * 3, (8, 12, 256, 64)),
    "GELU 4096x3072": (gelu, [(4096, 3072)], (4096, 3072)),
    "dropout 4096x3072": (dropout, [(4096, 3072)], (4096, 3072)),
    "embedding 50000x256": (embedding, [(50000, 256), 50000, (100, 128)], (100, 128, 256)),
    "Adam 7 million": (adam, [(1024, 1024), (1024,)] * 6 + [(1024, 784), (784,)], None),
}


def arrays(shapes):
    """The inputs; (floats, indices)."""
    import numpy as np
    r = np.random.default_rng(1)
    floats, indices = [], []
    shapes = iter(shapes)
    for s in shapes:
        if isinstance(s, int):
            indices.append(r.integers(0, s, next(shapes)))
        else:
            scale = 0.1 if len(s) == 2 and s[0] in (HIDDEN, 1024) else 1  # weights
            floats.append((scale * r.standard_normal(s)).astype("float32"))
    return floats, indices


def make(framework, name):
    import numpy as np
    formula, shapes, result = CASES[name]
    floats, indices = arrays(shapes)
    make = {"knet": knet_call, "torch": torch_call, "jax": jax_call}[framework]
    if formula is adam:
        gradients = [np.float32(0.1) * a[::-1].copy() for a in floats]
        return {"knet": knet_adam, "torch": torch_adam, "jax": jax_adam}[framework](floats, gradients)
    dy = np.random.default_rng(2).standard_normal(result).astype("float32")
    return make(formula, floats, indices, dy)


def knet_call(formula, floats, indices, dy):
    import knet

    class r:
        constant, erf = knet.value, knet.erf

        def uniform(shape):
            return knet.rand(*shape)

        def loop(cell, h, c, x):
            all = []
            for t in range(len(x)):
                h, c = cell(h, c, x[t])
                all.append(h)
            return knet.stack(all)

    floats, indices, dy = [knet.array(a) for a in floats], [knet.array(a) for a in indices], knet.array(dy)

    def loss(w):
        y = formula(knet, r, *w, *indices)
        return (y * dy).sum(), y

    gradient = knet.grad(loss, has_aux=True)

    def call():
        d, y = gradient(floats)
        return [y, *d]

    return call


def knet_adam(w, g):
    import knet
    w, g = [knet.array(a) for a in w], [knet.array(a) for a in g]
    state = [(0 * a, 0 * a) for a in w]
    t = 0

    def call():
        nonlocal w, state, t
        t += 1
        w, state = adam(knet, w, g, state, t)
        w[0][0, 0].item()  # what was recorded runs, all of it
        return w

    return call


def jax_call(formula, floats, indices, dy):
    import jax
    import jax.numpy as jnp
    counter = 0

    def call():
        nonlocal counter
        counter += 1
        return jax.block_until_ready(both(floats, dy, jax.random.key(counter)))

    @jax.jit
    def both(floats, dy, key):
        class r:
            constant, erf = jax.lax.stop_gradient, jax.scipy.special.erf

            def uniform(shape):
                return jax.random.uniform(key, shape)

            def loop(cell, h, c, x):
                def one(state, x):
                    h, c = cell(*state, x)
                    return (h, c), h
                return jax.lax.scan(one, (h, c), x)[1]

        y, back = jax.vjp(lambda *w: formula(jnp, r, *w, *indices), *floats)
        return [y, *back(dy)]

    floats, indices, dy = [jnp.array(a) for a in floats], [jnp.array(a) for a in indices], jnp.array(dy)
    return call


def jax_adam(w, g):
    import jax
    import jax.numpy as jnp
    w, g = [jnp.array(a) for a in w], [jnp.array(a) for a in g]
    state = [(jnp.zeros_like(a), jnp.zeros_like(a)) for a in w]
    step = jax.jit(functools.partial(adam, jnp), donate_argnums=(0, 2))
    t = 0

    def call():
        nonlocal w, state, t
        t += 1
        w, state = jax.block_until_ready(step(w, g, state, float(t)))
        return w

    return call


def torch_call(formula, floats, indices, dy):
    import torch
    import torch.nn.functional as F
    w, indices = [torch.tensor(a, requires_grad=True) for a in floats], [torch.tensor(a) for a in indices]
    dy = torch.tensor(dy)
    if formula is lstm:
        net = torch.nn.LSTM(HIDDEN, HIDDEN)
        with torch.no_grad():
            net.weight_ih_l0.copy_(w[1].T)
            net.weight_hh_l0.copy_(w[2].T)
            net.bias_ih_l0.copy_(w[3])
            net.bias_hh_l0.zero_()
        net.bias_hh_l0.requires_grad_(False)  # one bias, as in the formulas
        leaves = [w[0], net.weight_ih_l0, net.weight_hh_l0, net.bias_ih_l0]

        def call():
            y, _ = net(w[0])
            dx, dwx, dwh, db = torch.autograd.grad(y, leaves, dy)
            return [y.detach(), dx, dwx.T, dwh.T, db]

        return call
    function = {
        batch_norm: lambda x, scale, shift: F.batch_norm(x, None, None, scale, shift, training=True),
        layer_norm: lambda x, scale, shift: F.layer_norm(x, (x.shape[-1],), scale, shift),
        group_norm: lambda x, scale, shift: F.group_norm(x, 32, scale, shift),
        rms_norm: lambda x, scale: F.rms_norm(x, (x.shape[-1],), scale, 1e-5),
        cross_entropy: F.cross_entropy,
        log_sum_exp: lambda x: torch.logsumexp(x, -1),
        attention: lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        gelu: F.gelu,
        dropout: lambda x: F.dropout(x, RATE),
        embedding: lambda table, indices: F.embedding(indices, table),
    }[formula]

    def call():
        y = function(*w, *indices)
        return [y.detach(), *torch.autograd.grad(y, w, dy)]

    return call


def torch_adam(w, g):
    import torch
    w = [torch.tensor(a, requires_grad=True) for a in w]
    for a, d in zip(w, g):
        a.grad = torch.tensor(d)
    optimizer = torch.optim.Adam(w, lr=0.001, fused=True)

    def call():
        optimizer.step()
        return [a.detach() for a in w]

    return call


def check(name, results):
    """The largest difference between the frameworks' results, relative to the largest element."""
    import numpy as np
    if CASES[name][0] is dropout:
        x, = arrays(CASES[name][1])[0]
        dy = np.random.default_rng(2).standard_normal(x.shape).astype("float32")
        for f, (y, dx) in results.items():
            mask = (y != 0) / np.float32(1 - RATE)
            if abs((y == 0).mean() - RATE) > 1e-3 or not np.allclose(y, x * mask) or not np.allclose(dx, dy * mask):
                return f"{f} IS WRONG"
        return "all right"
    worst = 0
    for f, result in results.items():
        for a, b in zip(result, results["knet"], strict=True):
            if a.shape != b.shape:
                return f"SHAPES DIFFER {f}: {a.shape}, {b.shape}"
            worst = max(worst, abs(a - b).max() / abs(b).max())
    return f"differ by {worst:.1e}" + ("  TOO MUCH" if not worst < 1e-4 else "")


if __name__ == "__main__":
    interleave.main(__file__, make, ["knet", "torch", "jax"], list(CASES), str, None, __doc__, check=check,
                    gradients=True)
