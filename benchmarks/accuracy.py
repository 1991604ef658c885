"""Elementary functions: the largest error, in units of the last place (ulp), and nanoseconds an element.

    python benchmarks/accuracy.py [--only exp,tanh] [--level 2|3|4] [--all] [--samples 1000]

float32: one number out of each 2^12, at random, against NumPy in float64; `--all` takes every float32 (a minute or two
a function). float64: `--samples` numbers of the function's range against mpmath. `--level` limits the instruction set
to x86-64-v2, -v3 or -v4. Times are of 10000 numbers of the function's range on one thread, the best of many calls,
beside NumPy's and, where it is installed, PyTorch's; each includes its call and the result's memory.
"""
import argparse
import pathlib
import sys
import time

import numpy as np

import knet
from knet import _core

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import exact  # noqa: E402

try:
    import torch
    torch.set_num_threads(1)
except ImportError:
    torch = None
TORCH = {"sigm": "sigmoid", "log_sigmoid": "logsigmoid", "swish": "silu"}


def worst32(f, step):
    """The largest error and its argument, over the float32 in chunks of as many as fit a cache."""
    rng = np.random.default_rng(0) if step > 1 else None
    worst = (-1.0, 0.0)
    for start in range(0, 2**32, step << 20):
        x = exact.all_floats(start, start + (step << 20), step, rng)
        off = exact.ulps32(getattr(knet, f.name)(knet.array(x)).numpy(), f.numpy(x.astype("float64")))
        at = off.argmax()
        worst = max(worst, (float(off[at]), float(x[at])))
    return worst


def worst64(f, samples):
    rng = np.random.default_rng(0)
    lo, hi = f.domain
    x = np.concatenate([rng.uniform(lo, hi, samples), rng.uniform(max(lo, -2), min(hi, 2), samples)])
    y = getattr(knet, f.name)(knet.array(x)).numpy()
    return max((exact.ulps64(b, exact.of(f, a)), float(a)) for a, b in zip(x, y))


def ns(run, n, seconds=0.05):
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best * 1e9 / n


def times(f, dtype, n=10000):
    lo, hi = np.clip(f.domain, -10, 10)
    x = np.linspace(lo, hi, n, dtype=dtype)
    ours, mine = getattr(knet, f.name), knet.array(x)
    ufunc = getattr(np, f.name, None)
    out = [ns(lambda: ours(mine).numpy(), n), ns(lambda: ufunc(x), n) if isinstance(ufunc, np.ufunc) else np.nan]
    name = TORCH.get(f.name, f.name)
    theirs = torch and (getattr(torch, name, None) or getattr(torch.nn.functional, name, None))
    tensor = torch and torch.tensor(x)
    return out + [ns(lambda: theirs(tensor), n) if theirs else np.nan]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names, with commas")
    parser.add_argument("--level", type=int, choices=(2, 3, 4))
    parser.add_argument("--all", action="store_true", help="every float32")
    parser.add_argument("--samples", type=int, default=1000, help="float64 numbers (default 1000)")
    args = parser.parse_args()
    if args.level:
        _core.limit_isa(args.level)
    knet.config.threads = 1
    print(f"{_core.isa()}; ulp, where; ns an element: knet, numpy" + (", torch" if torch else ""))
    with np.errstate(all="ignore"):
        for f in exact.UNARY:
            if args.only and f.name not in args.only.split(","):
                continue
            for dtype in ("float32", "float64"):
                off, at = worst32(f, 1 if args.all else 4096) if dtype == "float32" else worst64(f, args.samples)
                took = " ".join("       " if np.isnan(t) else f"{t:7.2f}" for t in times(f, dtype))
                print(f"{f.name:12} {dtype} {off:7.3f} at {at:<24.17g} {took}", flush=True)


if __name__ == "__main__":
    main()
