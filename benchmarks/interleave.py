"""Fair turns for frameworks that are compared on the same work: each has a process of its own, and they take turns,
block by block, so that a noisy machine is as noisy for all and no framework's waiting threads disturb another's work.

A benchmark defines `make(framework, case)`, which gives a function to be timed, and calls `main(file, make, ...)`.
"""
import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

# Variables that choose a peer's kernels or threads.
CHOOSERS = ("OPENBLAS_CORETYPE", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY",
            "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
BLOCK = 0.004  # seconds of work in a turn
LIBRARIES = {"numpy": "numpy", "torch": "torch", "channels-last": "torch"}


class Worker:
    def __init__(self, file, framework, threads):
        env = {k: v for k, v in os.environ.items() if k not in CHOOSERS}
        if framework == "numpy":
            env["OPENBLAS_NUM_THREADS"] = str(threads)
        self.pipe = subprocess.Popen([sys.executable, file, "--worker", framework, "--threads", str(threads)], env=env,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, case, times):
        self.pipe.stdin.write(json.dumps([case, times]) + "\n")
        self.pipe.stdin.flush()
        return json.loads(self.pipe.stdout.readline())


def serve(make, framework, threads):
    if framework == "knet":
        import knet
        knet.config.threads = threads
    elif LIBRARIES[framework] == "torch":
        import torch
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
    known = None
    for line in sys.stdin:
        case, times = json.loads(line)
        if case != known:
            f, known = make(framework, case), case
            for _ in range(3):
                f()
        start = time.perf_counter()
        for _ in range(times):
            f()
        print(json.dumps((time.perf_counter() - start) / times), flush=True)


def main(file, make, frameworks, cases, label, flops, doc):
    """Prints a row for each case: microseconds and GFLOP/s of each framework, and ours against the best peer."""
    p = argparse.ArgumentParser(description=doc.split("\n")[0])
    p.add_argument("--threads", default=f"1,{len(os.sched_getaffinity(0))}", help="numbers, one table for each")
    p.add_argument("--repeats", type=int, default=15)
    p.add_argument("--only", default="", help="rows whose label contains this")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return serve(make, args.worker, int(args.threads))
    here = [f for f in frameworks if f == "knet" or importlib.util.find_spec(LIBRARIES[f])]
    for threads in map(int, args.threads.split(",")):
        print(f"{threads} thread{'s' * (threads > 1)}; microseconds (GFLOP/s), medians of {args.repeats} turns")
        workers = {f: Worker(file, f, threads) for f in here}
        for case in cases:
            name = label(case)
            if args.only not in name:
                continue
            calls = {f: max(1, int(BLOCK / w.ask(case, 1))) for f, w in workers.items()}
            turns = {f: [] for f in here}
            for _ in range(args.repeats):
                for f, w in workers.items():
                    turns[f].append(w.ask(case, calls[f]))
                    time.sleep(0.002)  # waiting threads go to sleep
            t = {f: statistics.median(v) for f, v in turns.items()}
            ratio = min((v for f, v in t.items() if f != "knet"), default=t["knet"]) / t["knet"]
            cells = "  ".join(f"{f} {v * 1e6:9.1f} ({flops(case) / v * 1e-9:5.0f})" for f, v in t.items())
            print(f"{name:34} {cells}  best peer {ratio:5.2f} x ours", flush=True)
        for w in workers.values():
            w.pipe.stdin.close()
            w.pipe.wait()
