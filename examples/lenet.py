"""LeNet, a convolutional network for handwritten digits (LeCun et al. 1998).

    python lenet.py --epochs 3
"""
import argparse
import shlex
import sys
import time

import numpy as np

import knet
import knet.data
from knet import conv4, grad, mat, nll, pool, relu
from knet.train import minibatch, progress


def predict(w, x):
    x = pool(relu(conv4(w[0], x) + w[1]))
    x = pool(relu(conv4(w[2], x) + w[3]))
    x = relu(mat(x) @ w[4] + w[5])
    return x @ w[6] + w[7]


def loss(w, x, y):
    return nll(predict(w, x), y)


lossgradient = grad(loss)


def train(w, data, lr):
    for x, y in data:
        dw = lossgradient(w, x, y)
        for i in range(len(w)):
            w[i] -= lr * dw[i]
    return w


def accuracy(w, data):
    return float(sum(knet.accuracy(predict(w, x), y) for x, y in data)) / len(data)


def weights(rng, atype):
    """Weights uniform in ±√(2/(fanin+fanout)) with the output channels as fanout, biases zero."""
    def uniform(shape, fanin, fanout):
        return rng.uniform(-1, 1, shape) * (2 / (fanin + fanout)) ** 0.5

    w = [uniform((20, 1, 5, 5), 25, 20), np.zeros((1, 20, 1, 1)),
         uniform((50, 20, 5, 5), 500, 50), np.zeros((1, 50, 1, 1)),
         uniform((800, 500), 800, 500), np.zeros((1, 500)),
         uniform((500, 10), 500, 10), np.zeros((1, 10))]
    return [atype(x.astype(np.float32)) for x in w]


def load(batchsize, atype):
    """MNIST as two lists of batches, to train and to test."""
    xtrn, ytrn, xtst, ytst = knet.data.mnist()
    return [list(minibatch(x, y, batchsize, xtype=atype, ytype=atype)) for x, y in ((xtrn, ytrn), (xtst, ytst))]


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batchsize", type=int, default=100)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--iters", type=int, default=1800, help="stop after so many updates in all")
    p.add_argument("--seed", type=int, default=-1, help="-1: a different run every time")
    p.add_argument("--gcheck", type=int, default=0, help="check so many gradients after each epoch")
    p.add_argument("--fast", action="store_true", help="train without printing accuracies")
    p.add_argument("--atype", choices=["KnetArray", "ndarray"], default="KnetArray")
    o = p.parse_args(shlex.split(args) if isinstance(args, str) else args)

    atype = knet.array if o.atype == "KnetArray" else np.array
    rng = np.random.default_rng(o.seed if o.seed >= 0 else None)
    dtrn, dtst = load(o.batchsize, atype)
    w = weights(rng, atype)

    def report(epoch):
        print(f"(:epoch,{epoch},:trn,{accuracy(w, dtrn):.4f},:tst,{accuracy(w, dtst):.4f})", flush=True)

    start = time.perf_counter()
    if not o.fast:
        report(0)
    left = o.iters
    for epoch in range(1, o.epochs + 1):
        batches = dtrn[:left]
        left -= len(batches)
        train(w, progress(batches, f"epoch {epoch}", keep=False), o.lr)
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
