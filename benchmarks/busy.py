"""A busy machine: how much slower a training step is beside as many busy processes as there are cores.

    python benchmarks/busy.py [--models mlp,lenet] [--peers torch,jax] [--repeats 15]

The busy processes do nothing but count. The system shares a core fairly between two, so a step on all cores should take
twice as long; a framework whose threads wait for each other by spinning, or meet at barriers, takes longer than its
share. Models and their forms are those of seed_models.py, with all cores; ms of a step, medians, in turns.
"""
import argparse
import contextlib
import subprocess
import sys
import time

import interleave
import seed_models

# What a busy process runs; it ends with us.
COUNT = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10 ** 6): pass"
STEPS = 10  # in a call


def make(framework, model):
    run, item = seed_models.runner(framework, model, seed_models.FORMS[framework][0])
    return lambda: item(run(STEPS))


@contextlib.contextmanager
def busy(number):
    processes = [subprocess.Popen([sys.executable, "-c", COUNT]) for _ in range(number)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for p in processes:
            p.kill()
            p.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--models", default="mlp,lenet")
    p.add_argument("--peers", default="torch,jax")
    p.add_argument("--threads", type=int, default=interleave.CORES)
    p.add_argument("--repeats", type=int, default=15)
    p.add_argument("--worker", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return interleave.serve(make, args.worker, args.threads, gradients=True)
    print(f"{args.threads} threads, {interleave.CORES} cores; milliseconds of a step, medians of {args.repeats} turns")
    workers = {}
    for f in ["knet", *args.peers.split(",")]:
        if interleave.installed(f):
            workers[f] = interleave.Worker(__file__, f, args.threads)
        else:
            print(f"{f}: not installed")
    for model in args.models.split(","):
        quiet = interleave.turns(workers, model, args.repeats, args.threads)
        with busy(interleave.CORES):
            loud = interleave.turns(workers, model, args.repeats, args.threads)
        for f in workers:
            print(f"{model:6} {f:6} alone {quiet[f] / STEPS * 1e3:8.3f} ms   beside {interleave.CORES} busy processes "
                  f"{loud[f] / STEPS * 1e3:9.3f} ms   {loud[f] / quiet[f]:6.2f} times as long", flush=True)
    for w in workers.values():
        w.end()


if __name__ == "__main__":
    main()
