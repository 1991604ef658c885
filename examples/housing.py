"""Linear regression on the Boston housing data: the price of a home from 13 features of its district.

    python housing.py --epochs 20 --lr 0.1
"""
import argparse
import shlex
import sys
import time

import numpy as np

import knet
import knet.data
from knet import grad


def predict(w, x):
    return x @ w[0] + w[1]


def loss(w, x, y):
    return ((y - predict(w, x)) ** 2).sum() / len(x)


lossgradient = grad(loss)


def train(w, x, y, lr):
    dw = lossgradient(w, x, y)
    for i in range(len(w)):
        w[i] -= lr * dw[i]
    return w


def load(test=0.0, rng=None):
    """Features with mean 0 and sample standard deviation 1, and prices; a share `test` of both is held out."""
    x, y = knet.data.housing()
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    if test == 0:
        return x, y, None, None
    order, n = rng.permutation(len(x)), round(len(x) * (1 - test))
    return x[order[:n]], y[order[:n]], x[order[n:]], y[order[n:]]


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--test", type=float, default=0.0, help="share of the data held out for testing")
    p.add_argument("--seed", type=int, default=-1, help="-1: a different run every time")
    p.add_argument("--gcheck", type=int, default=0, help="check so many gradients after each epoch")
    p.add_argument("--fast", action="store_true", help="train without printing losses")
    p.add_argument("--atype", choices=["KnetArray", "ndarray"], default="KnetArray")
    o = p.parse_args(shlex.split(args) if isinstance(args, str) else args)

    atype = knet.array if o.atype == "KnetArray" else np.array
    rng = np.random.default_rng(o.seed if o.seed >= 0 else None)
    xtrn, ytrn, xtst, ytst = (None if a is None else atype(a) for a in load(o.test, rng))
    w = [atype(0.1 * rng.standard_normal((13, 1))), 0]

    def report(epoch):
        test = "" if xtst is None else f",:tst,{float(loss(w, xtst, ytst)):.8g}"
        print(f"(:epoch,{epoch},:trn,{float(loss(w, xtrn, ytrn)):.8g}{test})", flush=True)

    start = time.perf_counter()
    if not o.fast:
        report(0)
    for epoch in range(1, o.epochs + 1):
        train(w, xtrn, ytrn, o.lr)
        if not o.fast:
            report(epoch)
        if o.gcheck:
            print("gradcheck", knet.gradcheck(loss, w, xtrn, ytrn, nsample=o.gcheck, verbose=True))
    np.asarray(w[0])  # waits for the last step
    print(f"{time.perf_counter() - start:.3f} seconds", file=sys.stderr)
    return w


if __name__ == "__main__":
    main()
