"""Watch LeNet learn to read digits: a progress bar, the test accuracy, and two pictures in the folder demo/.

    python examples/demo.py
"""
import argparse
import shlex
import sys
from pathlib import Path

import matplotlib
import numpy as np

import knet
from knet import gradloss
from knet.train import clock, progress
from lenet import accuracy, load, predict, weights

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of a backend that needs no screen)

INK, BLUE, ORANGE, RED, GREY = "#1f2933", "#2563a8", "#e07b39", "#c0392b", "#9aa5b1"


def measured(w, x, y):
    scores = predict(w, x)
    return knet.nll(scores, y), knet.accuracy(scores, y)


step = gradloss(measured, has_aux=True)


def train(w, data, epochs, lr, test):
    """Train and return the loss and accuracy of every batch, and the test accuracy (epochs + 1) along the way."""
    losses, correct, tested = [], [], [accuracy(w, test)]

    def message(p):
        n = min(len(losses), 50)
        loss, acc = (sum(float(v) for v in values[-n:]) / n for values in (losses, correct)) if n else (np.nan, np.nan)
        left = "--:--" if p.left is None else clock(p.left)
        return f"loss {loss:.4f}, accuracy {100 * acc:.2f} %, {left} left"

    batches = (batch for _ in range(epochs) for batch in data)
    for x, y in progress(batches, message, total=epochs * len(data), items=len(data[0][1]), unit=" images",
                         seconds=0.25 if sys.stderr.isatty() else 5):
        dw, (loss, right) = step(w, x, y)
        for i in range(len(w)):
            w[i] -= lr * dw[i]
        losses.append(loss)
        correct.append(right)
        if len(losses) % len(data) == 0:
            tested.append(accuracy(w, test))
    return [float(v) for v in losses], [float(v) for v in correct], tested


def smooth(values, width):
    """Means of the last `width` values, fewer at the start."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


def style():
    plt.rcParams.update({
        "figure.facecolor": "white", "figure.dpi": 150, "font.size": 10, "font.family": "sans-serif", "text.color": INK,
        "axes.labelcolor": INK, "axes.edgecolor": GREY, "axes.spines.top": False, "axes.spines.right": False,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.grid": True,
        "grid.color": "#e4e7eb", "grid.linewidth": 0.8, "xtick.color": INK, "ytick.color": INK})


def draw_curves(path, losses, correct, tested):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    x, width = np.arange(1, len(losses) + 1), max(5, len(losses) // 30)
    left.plot(x, losses, color=BLUE, alpha=0.2, linewidth=0.7)
    left.plot(x, smooth(losses, width), color=BLUE, linewidth=1.8)
    left.set(title="Training loss", xlabel="updates", yscale="log", xlim=(0, len(losses)))
    left.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    at = np.linspace(0, len(losses), len(tested))
    low = 100 * max(0, min(0.9, min(tested[1:]) - 0.03))
    right.plot(x, 100 * smooth(correct, width), color=BLUE, linewidth=1.8, label="training (running mean)")
    right.plot(at[1:], 100 * np.array(tested[1:]), "o", color=ORANGE, markersize=7, label="test", clip_on=False, zorder=3)
    right.set(title=f"Accuracy: {100 * tested[-1]:.2f} % of the test digits", xlabel="updates", ylabel="%",
              ylim=(low, 100.2), xlim=(0, len(losses)))
    right.legend(frameon=False, loc="lower right")
    figure.savefig(path)
    plt.close(figure)


def draw_digits(path, images, labels, p, columns=10, rows=3):
    """Digits with the network's answers (p: probabilities): some at random, then the mistakes it was surest of."""
    answer, sure = p.argmax(1), p.max(1)
    some = np.random.default_rng(0).permutation(len(labels))[:columns * rows]
    wrong = np.flatnonzero(answer != labels)
    wrong = wrong[np.argsort(-sure[wrong])][:columns]
    figure = plt.figure(figsize=(columns * 0.85, rows * 1.0 + 1.7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(rows + 0.3, 1.3))
    for part, which, grid, title in ((top, some, rows, "Test digits and the network's answers"),
                                     (bottom, wrong, 1, "The mistakes it was surest of (answer, then truth)")):
        part.suptitle(title, x=0.012, ha="left", weight="bold", fontsize=11)
        for k, axes in enumerate(np.ravel(part.subplots(grid, columns))):
            axes.axis("off")
            if k < len(which):
                i = which[k]
                good = answer[i] == labels[i]
                axes.imshow(images[i], cmap="gray_r", interpolation="nearest")
                axes.set_title(f"{answer[i]}" if good else f"{answer[i]}  ({labels[i]})", loc="center", fontsize=11,
                               color=BLUE if good else RED, pad=2)
    figure.savefig(path)
    plt.close(figure)


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--epochs", type=int, default=0, help="0: as many as make 1200 updates")
    p.add_argument("--iters", type=int, default=0, help="use only so many batches of an epoch; 0: all")
    p.add_argument("--batchsize", type=int, default=100)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", default="demo", help="folder for the pictures")
    o = p.parse_args(shlex.split(args) if isinstance(args, str) else args)

    dtrn, dtst = load(o.batchsize, knet.array)
    dtrn = dtrn[:o.iters or None]
    w = weights(np.random.default_rng(o.seed), knet.array)
    epochs = o.epochs or max(1, round(1200 / len(dtrn)))
    print(f"LeNet, {sum(x.size for x in w)} parameters; {len(dtrn) * o.batchsize} training and "
          f"{len(dtst) * o.batchsize} test images; {epochs} epochs", flush=True)
    losses, correct, tested = train(w, dtrn, epochs, o.lr, dtst)

    images = np.concatenate([np.asarray(x)[:, 0] for x, _ in dtst])
    labels = np.concatenate([np.asarray(y) for _, y in dtst])
    scores = np.concatenate([np.asarray(knet.logp(predict(w, x))) for x, _ in dtst])
    out = Path(o.out)
    out.mkdir(parents=True, exist_ok=True)
    style()
    draw_curves(out / "curves.png", losses, correct, tested)
    draw_digits(out / "digits.png", images, labels, np.exp(scores))
    print(f"test accuracy {tested[-1]:.4f}")
    print(f"training curves: {out / 'curves.png'}")
    print(f"sample digits:   {out / 'digits.png'}")
    return w


if __name__ == "__main__":
    main()
