"""LeNet on MNIST with each of the optimisers.

    python optimizers.py --optim Adam --lr 0.001 --eps 1e-8
    python optimizers.py --optim Momentum --lr 0.005 --gamma 0.99
"""
import argparse
import inspect
import shlex
import sys
import time

import numpy as np

import knet
import knet.optim
from knet.optim import update
from knet.train import progress
from lenet import load, loss, lossgradient, predict, weights


def train(w, data, opt):
    for x, y in data:
        update(w, lossgradient(w, x, y), opt)
    return w


def measure(w, data):
    """Accuracy and loss, means over the data."""
    correct, total = 0.0, 0.0
    for x, y in data:
        scores = predict(w, x)
        correct += knet.accuracy(scores, y)
        total += knet.nll(scores, y)
    return f"({float(correct) / len(data):.5f},{float(total) / len(data):.4f})"


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--optim", default="Sgd",
                   choices=["Sgd", "Momentum", "Nesterov", "Adagrad", "Adadelta", "Rmsprop", "Adam"])
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--eps", type=float, default=1e-6)
    p.add_argument("--gamma", type=float, default=0.95)
    p.add_argument("--rho", type=float, default=0.9)
    p.add_argument("--beta1", type=float, default=0.9)
    p.add_argument("--beta2", type=float, default=0.95)
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--iters", type=int, default=6000, help="stop after so many updates in all")
    p.add_argument("--batchsize", type=int, default=100)
    p.add_argument("--seed", type=int, default=-1, help="-1: a different run every time")
    p.add_argument("--gcheck", type=int, default=0, help="check so many gradients after each epoch")
    p.add_argument("--fast", action="store_true", help="train without printing accuracies")
    p.add_argument("--atype", choices=["KnetArray", "ndarray"], default="KnetArray")
    o = p.parse_args(shlex.split(args) if isinstance(args, str) else args)

    atype = knet.array if o.atype == "KnetArray" else np.array
    rng = np.random.default_rng(o.seed if o.seed >= 0 else None)
    otype = getattr(knet.optim, o.optim)
    opt = otype(**{k: v for k, v in vars(o).items() if k in inspect.signature(otype).parameters})
    dtrn, dtst = load(o.batchsize, atype)
    w = weights(rng, atype)
    print(opt)

    def report(epoch):
        print(f"(:epoch,{epoch},:trn,{measure(w, dtrn)},:tst,{measure(w, dtst)})", flush=True)

    start = time.perf_counter()
    if not o.fast:
        report(0)
    left = o.iters
    for epoch in range(1, o.epochs + 1):
        batches = dtrn[:left]
        left -= len(batches)
        train(w, progress(batches, f"epoch {epoch}", keep=False), opt)
        if not o.fast:
            report(epoch)
        if o.gcheck:
            print("gradcheck", knet.gradcheck(loss, w, *dtrn[0], nsample=o.gcheck, verbose=True))
        if left == 0:
            break
    np.asarray(w[0])  # waits for the last step
    print(f"{time.perf_counter() - start:.3f} seconds", file=sys.stderr)
    return w


if __name__ == "__main__":
    main()
