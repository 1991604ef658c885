"""A recursive network over trees, each seen for the first time: what a program costs that is never the same twice.

    python benchmarks/trees.py [--trees 200] [--peers torch,jax] [--threads N] [--rounds 3]

A tree is drawn at random, of 10 to 40 leaves. A leaf is a row of a table of 1000 words, a node h = tanh(wl hl + wr hr +
b), 64 numbers each; the loss is the mean squared distance of the root from the tree's target; forward, backward and
update for every tree. We write it as plain recursion (`plain`), and so may a PyTorch, MLX, autograd or JAX user. Better
forms of theirs:

torch lookup  the words of a tree are looked up together, and one product takes both children (fewer operations)
torch module  the same as an nn.Module, with sparse gradients for the table, and torch.optim.SGD
jax scan      rewritten by hand: nodes in order, numbers of children, arrays padded to 40 leaves, a jitted scan over
              the nodes, compiled once

All see the same trees and must have the same losses. Milliseconds of a tree: median and mean (with everything that happens
the first time) if each loss is read before the next tree; the median of a second pass over the same trees; and then, for
as many new trees, the mean if all losses are read at the end (`in a row`), as few training loops look at each loss. Plain
JAX does the first few only.
"""
import argparse
import json
import random
import statistics
import time

import interleave

WORDS, SIZE, LEAVES, LR = 1000, 64, 40, 0.1
FEW = 4  # trees for JAX without jit: seconds each


def tree(r, leaves):
    """A word, or a pair of trees."""
    if leaves == 1:
        return r.randrange(WORDS)
    left = r.randrange(1, leaves)
    return tree(r, left), tree(r, leaves - left)


def problem(number):
    import numpy as np
    r = random.Random(1)
    trees = [tree(r, r.randint(10, LEAVES)) for _ in range(number)]
    r = np.random.default_rng(1)

    def normal(*shape, scale):
        return (scale * r.standard_normal(shape)).astype("float32")

    w = [normal(WORDS, SIZE, scale=0.5), normal(SIZE, SIZE, scale=SIZE ** -0.5), normal(SIZE, SIZE, scale=SIZE ** -0.5),
         np.zeros(SIZE, "float32")]
    return w, trees, normal(number, SIZE, scale=0.3)


def words(tree):
    return [tree] if isinstance(tree, int) else words(tree[0]) + words(tree[1])


# Each gives a function of a tree and its target that does a step and returns the loss, and one that reads a loss.

def knet_step(w, form):
    import knet
    w = [knet.array(a) for a in w]

    def forward(w, tree):
        if isinstance(tree, int):
            return w[0][tree]
        left, right = tree
        return knet.tanh(w[1] @ forward(w, left) + w[2] @ forward(w, right) + w[3])

    @knet.gradloss
    def lossgradient(w, tree, target):
        return ((forward(w, tree) - target) ** 2).mean()

    def step(tree, target):
        dw, loss = lossgradient(w, tree, target)
        for i in range(len(w)):
            w[i] -= LR * dw[i]
        return loss

    return step, knet.array, lambda v: v.item()


def torch_step(w, form):
    import torch
    import torch.nn.functional as F
    w = [torch.tensor(a, requires_grad=True) for a in w]

    def plain(tree):
        if isinstance(tree, int):
            return w[0][tree]
        return torch.tanh(w[1] @ plain(tree[0]) + w[2] @ plain(tree[1]) + w[3])

    if form == "plain":
        def step(tree, target):
            loss = ((plain(tree) - target) ** 2).mean()
            d = torch.autograd.grad(loss, w)
            with torch.no_grad():
                torch._foreach_add_(w, d, alpha=-LR)
            return loss

        return step, torch.tensor, lambda v: v.item()

    def recursion(tree, leaves, both, b):
        if isinstance(tree, int):
            return next(leaves)
        children = [recursion(child, leaves, both, b) for child in tree]
        return torch.tanh(F.linear(torch.cat(children), both, b))

    both = torch.cat(w[1:3], 1).detach().requires_grad_()
    if form == "lookup":
        w = [w[0], both, w[3]]

        def step(tree, target):
            leaves = iter(F.embedding(torch.tensor(words(tree)), w[0]).unbind())
            loss = ((recursion(tree, leaves, w[1], w[2]) - target) ** 2).mean()
            d = torch.autograd.grad(loss, w)
            with torch.no_grad():
                torch._foreach_add_(w, d, alpha=-LR)
            return loss

        return step, torch.tensor, lambda v: v.item()

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding.from_pretrained(w[0].detach(), freeze=False, sparse=True)
            self.linear = torch.nn.Linear(2 * SIZE, SIZE)
            with torch.no_grad():
                self.linear.weight.copy_(both)
                self.linear.bias.copy_(w[3])

        def node(self, tree, leaves):
            if isinstance(tree, int):
                return next(leaves)
            return torch.tanh(self.linear(torch.cat([self.node(child, leaves) for child in tree])))

        def forward(self, tree):
            return self.node(tree, iter(self.embedding(torch.tensor(words(tree))).unbind()))

    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)

    def step(tree, target):
        loss = ((net(tree) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step, torch.tensor, lambda v: v.item()


def autograd_step(w, form):
    import autograd.numpy as np
    from autograd import value_and_grad

    def forward(w, tree):
        if isinstance(tree, int):
            return w[0][tree]
        return np.tanh(np.dot(w[1], forward(w, tree[0])) + np.dot(w[2], forward(w, tree[1])) + w[3])

    lossgradient = value_and_grad(lambda w, tree, target: np.mean((forward(w, tree) - target) ** 2))

    def step(tree, target):
        loss, dw = lossgradient(w, tree, target)
        for a, d in zip(w, dw):
            a -= LR * d
        return loss

    return step, np.array, float


def mlx_step(w, form):
    import mlx.core as mx
    w = [mx.array(a) for a in w]

    def forward(w, tree):
        if isinstance(tree, int):
            return w[0][tree]
        return mx.tanh(w[1] @ forward(w, tree[0]) + w[2] @ forward(w, tree[1]) + w[3])

    lossgradient = mx.value_and_grad(lambda w, tree, target: ((forward(w, tree) - target) ** 2).mean())

    def step(tree, target):
        loss, dw = lossgradient(w, tree, target)
        for i in range(len(w)):
            w[i] = w[i] - LR * dw[i]
        mx.eval(loss, w)
        return loss

    return step, mx.array, lambda v: v.item()


def jax_step(w, form):
    import jax
    import jax.numpy as jnp
    import numpy as np
    state = [[jnp.array(a) for a in w]]

    if form == "plain":
        def forward(w, tree):
            if isinstance(tree, int):
                return w[0][tree]
            return jnp.tanh(w[1] @ forward(w, tree[0]) + w[2] @ forward(w, tree[1]) + w[3])

        lossgradient = jax.value_and_grad(lambda w, tree, target: ((forward(w, tree) - target) ** 2).mean())

        def step(tree, target):
            loss, dw = lossgradient(state[0], tree, target)
            state[0] = [a - LR * d for a, d in zip(state[0], dw)]
            return loss

        return step, jnp.array, lambda v: v.item()

    def loss_of(w, leaves, children, root, target):
        """The leaves' numbers are 0 to 39, the nodes' 40 to 78; those beyond the root's change nothing that it sees."""
        h = jnp.concatenate([w[0][leaves], jnp.zeros((LEAVES - 1, SIZE))])

        def node(h, what):
            i, (left, right) = what
            return h.at[i].set(jnp.tanh(w[1] @ h[left] + w[2] @ h[right] + w[3])), None

        h, _ = jax.lax.scan(node, h, (LEAVES + jnp.arange(LEAVES - 1), children))
        return ((h[root] - target) ** 2).mean()

    def update(w, *args):
        loss, dw = jax.value_and_grad(loss_of)(w, *args)
        return loss, [a - LR * d for a, d in zip(w, dw)]

    update = jax.jit(update, donate_argnums=0)

    def arrays(tree):
        leaves, children = np.zeros(LEAVES, "int32"), np.zeros((LEAVES - 1, 2), "int32")
        counts = [0, 0]

        def number(tree):
            if isinstance(tree, int):
                leaves[counts[0]] = tree
                counts[0] += 1
                return counts[0] - 1
            pair = number(tree[0]), number(tree[1])
            children[counts[1]] = pair
            counts[1] += 1
            return LEAVES + counts[1] - 1

        return leaves, children, number(tree)

    def step(tree, target):
        loss, state[0] = update(state[0], *arrays(tree), target)
        return loss

    return step, jnp.array, lambda v: v.item()


FORMS = {"knet": ["plain"], "torch": ["plain", "lookup", "module"], "autograd": ["plain"], "mlx": ["plain"],
         "jax": ["scan", "plain"]}
STEPS = {"knet": knet_step, "torch": torch_step, "autograd": autograd_step, "mlx": mlx_step, "jax": jax_step}


def worker(framework, form, threads, number):
    interleave.settle(framework, threads)
    if framework == "knet":
        import knet
    if (framework, form) == ("jax", "plain"):
        number = min(number, FEW)
    w, trees, targets = problem(2 * number)
    step, array, item = STEPS[framework](w, form)
    targets = [array(t) for t in targets]
    new, more = list(zip(trees, targets))[:number], list(zip(trees, targets))[number:]
    misses = (lambda: knet.memory()["plan_misses"]) if framework == "knet" else (lambda: 0)
    passes = []
    for _ in range(2):
        before = misses()
        times, losses = [], []
        for tree, target in new:
            start = time.perf_counter()
            loss = item(step(tree, target))
            times.append((time.perf_counter() - start) * 1e3)
            losses.append(loss)
        passes.append({"median": statistics.median(times), "mean": statistics.mean(times), "first": times[0],
                       "losses": losses, "plans": misses() - before})
    start = time.perf_counter()
    losses = [step(tree, target) for tree, target in more]
    losses = [item(loss) for loss in losses]
    passes.append({"mean": (time.perf_counter() - start) * 1e3 / len(more), "losses": losses})
    print(json.dumps(passes))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--trees", type=int, default=200)
    p.add_argument("--peers", default=",".join(FORMS).removeprefix("knet,"))
    p.add_argument("--threads", type=int, default=1)  # our second records a tree while the last one is computed
    p.add_argument("--rounds", type=int, default=3, help="so many processes of each, in turn")
    p.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return worker(*args.worker, args.threads, args.trees)
    print(f"{args.threads} thread{'s' * (args.threads > 1)}, {args.trees} trees; milliseconds of a tree, the median of "
          f"{args.rounds} processes, in brackets the least")
    contestants = [(framework, form) for framework in ["knet", *args.peers.split(",")] for form in FORMS[framework]]

    def ask(framework, form):
        return interleave.alone(__file__, framework, form, "--trees", str(args.trees), threads=args.threads)

    ours = None
    for (framework, form), known in interleave.in_turn(contestants, ask, args.rounds).items():
        name = f"{framework + ' ' + form:16}"
        if isinstance(known, str):
            print(f"{name} {known}", flush=True)
            continue
        new, again, row = zip(*known)
        least, mean, steady = min(r["median"] for r in new), middle(new, "mean"), middle(again, "median")
        losses = [new[0]["losses"], row[0]["losses"]]
        ours = ours or (middle(new, "median"), losses)
        few = len(losses[0]) < len(ours[1][0])  # then the rest begins elsewhere
        agree = all(abs(a - b) <= 1e-3 * abs(b) for mine, theirs in list(zip(losses, ours[1]))[:1 if few else 2]
                    for a, b in zip(mine, theirs))
        plans = f"  new plans {new[0]['plans']}, then {again[0]['plans']}" if framework == "knet" else ""
        median = middle(new, "median")
        print(f"{name} median {median:8.3f} ({least:.3f})  {median / ours[0]:6.2f} x ours  mean {mean:8.3f}  "
              f"first {middle(new, 'first'):8.1f}  again {steady:8.3f}  "
              f"in a row {middle(row, 'mean'):8.3f} ({min(r['mean'] for r in row):.3f})  {len(losses[0])} trees, "
              f"mean loss {statistics.mean(losses[0]):.6f}{'' if agree else '  LOSSES DIFFER'}{plans}", flush=True)


def middle(answers, what):
    return statistics.median(r[what] for r in answers)


if __name__ == "__main__":
    main()
