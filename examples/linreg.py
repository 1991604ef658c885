"""Linear regression on synthetic data: y = x·w + noise, fresh random data in every epoch.

    python linreg.py --epochs 10 --lr 0.02
"""
import argparse
import shlex
import sys
import time

import numpy as np

import knet
from knet import grad
from knet.train import progress


def predict(w, x):
    return x @ w


def loss(w, x, y):
    return ((y - predict(w, x)) ** 2).sum() / len(x)


lossgradient = grad(loss)


def train(w, data, lr):
    for x, y in data:
        w = w - lr * lossgradient(w, x, y)
    return w


def test(w, data):
    return float(sum(loss(w, x, y) for x, y in data)) / len(data)


def batches(rng, true, o, atype):
    """One epoch of data: pairs x (batchsize, inputdims) and y (batchsize, outputdims)."""
    x = rng.random((o.epochsize, o.inputdims))
    y = x @ true + o.noise * rng.standard_normal((o.epochsize, o.outputdims))
    return [(atype(x[i:i + o.batchsize]), atype(y[i:i + o.batchsize]))
            for i in range(0, o.epochsize - o.batchsize + 1, o.batchsize)]


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--inputdims", type=int, default=100)
    p.add_argument("--outputdims", type=int, default=10)
    p.add_argument("--batchsize", type=int, default=20)
    p.add_argument("--epochsize", type=int, default=10000)
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--noise", type=float, default=0.01)
    p.add_argument("--seed", type=int, default=-1, help="-1: a different run every time")
    p.add_argument("--gcheck", type=int, default=0, help="check so many gradients after each epoch")
    p.add_argument("--fast", action="store_true", help="train without printing losses")
    p.add_argument("--atype", choices=["KnetArray", "ndarray"], default="KnetArray")
    o = p.parse_args(shlex.split(args) if isinstance(args, str) else args)

    atype = knet.array if o.atype == "KnetArray" else np.array
    rng = np.random.default_rng(o.seed if o.seed >= 0 else None)
    true = rng.standard_normal((o.inputdims, o.outputdims))
    w = atype(0.1 * rng.standard_normal((o.inputdims, o.outputdims)))
    if not o.fast:
        print(f"(:epoch,0,:loss,{test(w, batches(rng, true, o, atype)):.6g})", flush=True)
    start = time.perf_counter()
    for epoch in range(1, o.epochs + 1):
        w = train(w, progress(batches(rng, true, o, atype), f"epoch {epoch}", keep=False), o.lr)
        if not o.fast:
            print(f"(:epoch,{epoch},:loss,{test(w, batches(rng, true, o, atype)):.6g})", flush=True)
        if o.gcheck:
            x, y = batches(rng, true, o, atype)[0]
            print("gradcheck", knet.gradcheck(loss, w, x, y, nsample=o.gcheck, verbose=True))
    np.asarray(w)  # waits for the last step
    print(f"{time.perf_counter() - start:.3f} seconds", file=sys.stderr)
    return w


if __name__ == "__main__":
    main()
