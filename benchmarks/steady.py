"""What stays: memory after ten thousand steps, the size of the package, and what its import costs without NumPy.

    python benchmarks/steady.py [--steps 10000] [--peers torch,jax]

Resident memory (Linux: /proc/self/statm), in KB: after a warm-up of 1000 steps of the MLP of seed_models.py, and after
`steps` more, whose losses are all read. Installed size: the files of the package's folder, without compiled Python.
Import: the median of fifteen fresh interpreters, less that of one that does nothing; it fails here if NumPy was
imported with it.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import interleave
import seed_models

WARM = 1000
IMPORT = "import sys, knet; assert 'numpy' not in sys.modules"


def resident():
    """KB of this process that are in memory."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def worker(framework, threads, steps):
    interleave.settle(framework, threads)
    run, item = seed_models.runner(framework, "mlp", seed_models.FORMS[framework][0])
    after = []
    for n in (WARM, steps):
        for _ in range(n):
            item(run(1))
        after.append(resident())
    print(json.dumps(after))


def seconds(code):
    times = []
    for _ in range(15):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], env=interleave.environment("knet", 1), check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--steps", type=int, default=10000)
    p.add_argument("--peers", default="torch,jax")
    p.add_argument("--threads", type=int, default=interleave.CORES)
    p.add_argument("--worker", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return worker(args.worker, args.threads, args.steps)
    for f in ["knet", *args.peers.split(",")]:
        r = interleave.alone(__file__, f, "--steps", str(args.steps), threads=args.threads)
        if not isinstance(r, str):
            r = f"resident after {WARM} steps {r[0]} KB, after {args.steps} more {r[1]} KB: {r[1] - r[0]:+} KB"
        print(f"{f:6} {r}", flush=True)
    import knet
    folder = pathlib.Path(knet.__file__).parent
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    engine = sum(f.stat().st_size for f in folder.glob("_core*"))
    print(f"installed size {size / 1024:.0f} KB, of which the engine {engine / 1024:.0f} KB")
    print(f"import knet, without NumPy: {(seconds(IMPORT) - seconds('pass')) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
