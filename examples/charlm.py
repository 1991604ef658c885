"""A character language model: an LSTM that reads a text and then writes its own.

    python charlm.py --data 19.txt --save hiawatha.npz --epochs 3
    python charlm.py --load hiawatha.npz --generate 1000

The first data file is for training, the second for choosing the best model, others for testing. In place of a file the
names hiawatha, shakespeare and tinyshakespeare stand for those texts.
"""
import argparse
import os
import shlex
import sys
import tempfile
import time

import numpy as np

import knet
import knet.data
from knet import grad
from knet.optim import clip, update
from knet.train import progress


def lstm(w, b, h, c, x):
    """New output and cell state (batch, hidden); gates in the order forget, input, output, change."""
    n = h.shape[1]
    gates = knet.concatenate([x, h], axis=1) @ w + b
    forget, ingate, outgate = (knet.sigm(gates[:, i * n:(i + 1) * n]) for i in range(3))
    c = c * forget + ingate * knet.tanh(gates[:, 3 * n:])
    return outgate * knet.tanh(c), c


def predict(w, state, x):
    """Scores of the next character from x, embedded characters (batch, embed); state [h, c, ...] is replaced."""
    for i in range(0, len(state), 2):
        state[i], state[i + 1] = lstm(w[i], w[i + 1], state[i], state[i + 1], x)
        x = state[i]
    return x @ w[-2] + w[-1]


def loss(w, state, text):
    """Mean of −log p over the characters of text (time, batch) after the first row."""
    total = 0.0
    for t in range(len(text) - 1):
        total += knet.nll(predict(w, state, w[-3][text[t]]), text[t + 1])
    return total / (len(text) - 1)


lossgradient = grad(loss)


def train(w, state, chunks, lr, gclip):
    for chunk in chunks:
        g = lossgradient(w, state, chunk)
        state = [knet.value(s) for s in state]  # carried on; the gradient stops here
        update(w, clip(g, gclip), lr=lr)
    return w


def test(w, state, text, seqlength):
    """Loss over a whole text (time, batch), read in chunks with the state carried from one to the next."""
    total, last = 0.0, len(text) - 1
    for t in range(0, last, seqlength):
        chunk = text[t:t + seqlength + 1]
        total += float(loss(w, state, chunk)) * (len(chunk) - 1)
    return total / last


def weights(rng, chars, hidden, embed, winit, atype):
    """For each LSTM layer weight and bias, then embedding (chars, embed), output weight and bias."""
    w, n = [], embed
    for h in hidden:
        w += [winit * rng.standard_normal((n + h, 4 * h)), np.zeros((1, 4 * h))]
        w[-1][:, :h] = 1  # forget gates start open
        n = h
    w += [winit * rng.standard_normal((chars, embed)), winit * rng.standard_normal((n, chars)), np.zeros((1, chars))]
    return [atype(x.astype(np.float32)) for x in w]


def zeros(w, batch, atype):
    """The state at the start of a text."""
    return [atype(np.zeros((batch, b.shape[1] // 4), np.float32)) for b in w[1:-3:2] for _ in range(2)]


def read(name):
    if name in knet.data.TEXTS and not os.path.exists(name):
        return knet.data.text(name)
    try:
        with open(name, "rb") as f:
            content = f.read()
    except OSError as error:
        raise SystemExit(f"charlm: {error}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def encode(text, vocab, batchsize):
    """Numbers of the characters (time, batch): the text cut into batchsize pieces, a short rest left out."""
    unknown = set(text) - vocab.keys()
    if unknown:
        raise SystemExit(f"Unknown char {min(unknown)!r}")
    n = len(text) // batchsize
    return np.array([vocab[c] for c in text[:n * batchsize]]).reshape(batchsize, n).T.copy()


def generate(w, chars, n, rng, atype):
    state, x = zeros(w, 1, atype), atype(np.zeros((1, w[-3].shape[1]), np.float32))
    for _ in range(n):
        p = np.exp(np.asarray(knet.logp(predict(w, state, x)), dtype=np.float64)[0])
        i = rng.choice(len(chars), p=p / p.sum())
        print(chars[i], end="", flush=True)
        x = w[-3][i:i + 1]
    print()


def save(path, w, chars):
    # Plain arrays, no pickle; a file of this name is always whole.
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as f:
        try:
            codes = np.array([ord(c) for c in chars], np.uint32)
            np.savez(f, chars=codes, **{f"w{i}": np.asarray(x) for i, x in enumerate(w)})
            f.close()
            os.replace(f.name, path)
        except BaseException:
            os.unlink(f.name)
            raise


def load(path, atype):
    with np.load(path, allow_pickle=False) as f:
        return [atype(f[f"w{i}"]) for i in range(len(f.files) - 1)], [chr(c) for c in f["chars"]]


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--datafiles", nargs="+", default=[], help="files to train, choose and test on; none: this script")
    p.add_argument("--loadfile", help="start from the model in this file")
    p.add_argument("--savefile", help="keep the last model in this file")
    p.add_argument("--bestfile", help="keep the model that is best on the second data file in this file")
    p.add_argument("--generate", type=int, default=0, help="write so many characters at the end")
    p.add_argument("--hidden", type=int, nargs="+", default=[256], help="sizes of the LSTM layers")
    p.add_argument("--embed", type=int, default=256, help="size of the character vectors")
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--batchsize", type=int, default=128)
    p.add_argument("--seqlength", type=int, default=100, help="characters between two updates")
    p.add_argument("--decay", type=float, default=0.9, help="factor for lr after an epoch that made the loss worse")
    p.add_argument("--lr", type=float, default=4.0)
    p.add_argument("--gclip", type=float, default=3.0, help="largest norm of the whole gradient")
    p.add_argument("--winit", type=float, default=0.3, help="standard deviation of the first weights")
    p.add_argument("--gcheck", type=int, default=0, help="check so many gradients after each epoch")
    p.add_argument("--seed", type=int, default=-1, help="-1: a different run every time")
    p.add_argument("--fast", action="store_true", help="train without printing losses")
    p.add_argument("--atype", choices=["KnetArray", "ndarray"], default="KnetArray")
    o = p.parse_args(shlex.split(args) if isinstance(args, str) else args)

    atype = knet.array if o.atype == "KnetArray" else np.array
    rng = np.random.default_rng(o.seed if o.seed >= 0 else None)
    names = o.datafiles or ([] if o.loadfile else [__file__])
    texts = [read(name) for name in names]
    if o.loadfile:
        w, chars = load(o.loadfile, atype)
    else:
        chars = list(dict.fromkeys("".join(texts)))
        w = weights(rng, len(chars), o.hidden, o.embed, o.winit, atype)
    vocab = {c: i for i, c in enumerate(chars)}
    data = [encode(text, vocab, o.batchsize) for text in texts]
    if data:
        print(*(f"{name}: {len(text)} characters" for name, text in zip(names, texts)), f"{len(chars)} symbols", sep=", ")
        fit(w, chars, data, o, atype)
    if o.generate:
        generate(w, chars, o.generate, rng, atype)
    return w


def fit(w, chars, data, o, atype):
    """Train on the first text; print the loss on each after every epoch; save."""
    def losses(epoch):
        found = [test(w, zeros(w, o.batchsize, atype), text, o.seqlength) for text in data]
        print(f"(:epoch,{epoch},:loss,{','.join(f'{x:.4f}' for x in found)})", flush=True)
        return found[min(1, len(found) - 1)]  # of the second text, if there is one

    chunks = [data[0][t:t + o.seqlength + 1] for t in range(0, len(data[0]) - o.seqlength, o.seqlength)]
    start, lr = time.perf_counter(), o.lr
    best = last = np.inf if o.fast else losses(0)
    for epoch in range(1, o.epochs + 1):
        state = zeros(w, o.batchsize, atype)
        train(w, state, progress(chunks, f"epoch {epoch}", keep=False), lr, o.gclip)
        if o.gcheck:
            whole = lambda w, text: loss(w, zeros(w, o.batchsize, atype), text)
            print("gradcheck", knet.gradcheck(whole, w, chunks[0], nsample=o.gcheck, verbose=True))
        if o.fast:
            continue
        now = losses(epoch)
        if o.bestfile and now < best:
            save(o.bestfile, w, chars)
        if now > last:
            lr *= o.decay
            print(f"(:lr,{lr:g})")
        best, last = min(best, now), now
    if o.savefile:
        save(o.savefile, w, chars)
    np.asarray(w[0])  # waits for the last step
    print(f"{time.perf_counter() - start:.3f} seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
