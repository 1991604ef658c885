"""Handwritten digits with soft-max regression, or with a multi-layer perceptron of the hidden sizes given.

    python mnist.py --epochs 10
    python mnist.py --hidden 64
"""
import argparse
import shlex
import sys
import time

import numpy as np

import knet
import knet.data
from knet import grad
from knet.train import minibatch, progress


def predict(w, x):
    for i in range(0, len(w), 2):
        x = x @ w[i] + w[i + 1]
        if i < len(w) - 2:
            x = knet.relu(x)
    return x


def loss(w, x, y):
    return knet.nll(predict(w, x), y)


lossgradient = grad(loss)


def train(w, data, lr):
    for x, y in data:
        dw = lossgradient(w, x, y)
        for i in range(len(w)):
            w[i] -= lr * dw[i]
    return w


def accuracy(w, data):
    return float(sum(knet.accuracy(predict(w, x), y) for x, y in data)) / len(data)


def weights(rng, sizes, winit, atype):
    """Weight and bias for each layer; sizes like [784, 64, 10]."""
    w = []
    for m, n in zip(sizes, sizes[1:]):
        w += [winit * rng.standard_normal((m, n)), np.zeros((1, n))]
    return [atype(x.astype(np.float32)) for x in w]


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hidden", type=int, nargs="*", default=[], help="sizes of hidden layers; none: soft-max")
    p.add_argument("--lr", type=float, default=0.5)
    p.add_argument("--winit", type=float, default=0.1, help="standard deviation of the first weights")
    p.add_argument("--batchsize", type=int, default=100)
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--seed", type=int, default=-1, help="-1: a different run every time")
    p.add_argument("--gcheck", type=int, default=0, help="check so many gradients after each epoch")
    p.add_argument("--fast", action="store_true", help="train without printing accuracies")
    p.add_argument("--atype", choices=["KnetArray", "ndarray"], default="KnetArray")
    o = p.parse_args(shlex.split(args) if isinstance(args, str) else args)

    atype = knet.array if o.atype == "KnetArray" else np.array
    rng = np.random.default_rng(o.seed if o.seed >= 0 else None)
    xtrn, ytrn, xtst, ytst = knet.data.mnist()
    dtrn = list(minibatch(xtrn, ytrn, o.batchsize, xtype=atype, ytype=atype, xsize=(784,)))
    dtst = list(minibatch(xtst, ytst, o.batchsize, xtype=atype, ytype=atype, xsize=(784,)))
    w = weights(rng, [784, *o.hidden, 10], o.winit, atype)

    def report(epoch):
        print(f"(:epoch,{epoch},:trn,{accuracy(w, dtrn):.4f},:tst,{accuracy(w, dtst):.4f})", flush=True)

    start = time.perf_counter()
    if not o.fast:
        report(0)
    for epoch in range(1, o.epochs + 1):
        train(w, progress(dtrn, f"epoch {epoch}", keep=False), o.lr)
        if not o.fast:
            report(epoch)
        if o.gcheck:
            print("gradcheck", knet.gradcheck(loss, w, *dtrn[0], nsample=o.gcheck, verbose=True))
    np.asarray(w[0])  # waits for the last step
    print(f"{time.perf_counter() - start:.3f} seconds", file=sys.stderr)
    return w


if __name__ == "__main__":
    main()
