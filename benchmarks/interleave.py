"""How frameworks are compared on the same work: each in its own process, with no variable that chooses its kernels.

Two ways. `alone` runs one contestant from start to end and takes its answer. `main` gives fair turns: all are there at
once and take turns, block by block, so that a noisy machine is as noisy for all and no framework's waiting threads
disturb another's work. A benchmark defines `make(framework, case)`, which gives a function to be timed, and calls
`main(file, make, ...)`.
"""
import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

# Variables that choose a peer's kernels or threads, or have every import compile its modules again.
CHOOSERS = ("OPENBLAS_CORETYPE", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY",
            "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS",
            "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
BLOCK = 0.03  # seconds of calls in a row in a turn: single calls measured how fast threads wake up, and little else
# Seconds between turns. Threads of OpenBLAS wait for work by counting for up to 25 ms, OpenMP's for some, and whoever comes
# next takes three times as long.
PAUSE = 0.05
# The modules of frameworks whose names are not their module's.
LIBRARIES = {"channels-last": "torch", "compile": "torch", "copy": "numpy", "tf": "tensorflow"}
CORES = len(os.sched_getaffinity(0))
threads = CORES  # of this worker


def library(framework):
    return LIBRARIES.get(framework, framework)


def installed(framework):
    return importlib.util.find_spec(library(framework)) is not None


def environment(framework, threads):
    """Of a process for this framework: NumPy's threads cannot be set from within."""
    env = {k: v for k, v in os.environ.items() if k not in CHOOSERS}
    if library(framework) in ("numpy", "autograd"):
        env["OPENBLAS_NUM_THREADS"] = str(threads)
    if library(framework) == "tensorflow":
        env["TF_CPP_MIN_LOG_LEVEL"] = "2"  # it tells of its instruction sets
    return env


def settle(framework, count):
    """In a new process, first of all: as many threads as were asked for."""
    global threads
    threads, name = count, library(framework)
    if name == "knet":
        import knet
        knet.config.threads = threads
    elif name == "torch":
        import torch
        torch.set_num_threads(threads)
    elif name == "tensorflow":
        import tensorflow
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    elif name in ("jax", "mlx", "tinygrad") and threads < CORES:  # these count the cores that they may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def alone(file, framework, *args, threads=CORES, timeout=300):
    """What `file --worker framework args --threads n` prints on its last line, or a string that says why it did not."""
    if not installed(framework):
        return "not installed"
    command = [sys.executable, file, "--threads", str(threads), "--worker", framework, *args]
    try:
        run = subprocess.run(command, env=environment(framework, threads), capture_output=True, text=True,
                             timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"not done in {timeout} s"
    if run.returncode:
        return f"did not run: {(run.stderr.strip().splitlines() or [f'exit {run.returncode}'])[-1]}"
    return json.loads(run.stdout.strip().splitlines()[-1])


def in_turn(contestants, ask, rounds):
    """For each contestant the answers of `rounds` processes, or a string that says why there are none.

    They take turns: on a shared machine a process may be slow from its first step to its last, by where it runs.
    """
    answers = {c: [] for c in contestants}
    for _ in range(rounds):
        for c, known in answers.items():
            if not known or not isinstance(known[-1], str):
                known.append(ask(*c))
    return {c: known[-1] if isinstance(known[-1], str) else known for c, known in answers.items()}


class Worker:
    def __init__(self, file, framework, threads):
        self.framework = framework
        self.pipe = subprocess.Popen([sys.executable, file, "--worker", framework, "--threads", str(threads)],
                                     env=environment(framework, threads), stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)

    def ask(self, case, times):
        """Seconds of a call, the mean of `times` calls; of 0 calls: the results of the first one, as NumPy arrays."""
        self.pipe.stdin.write(json.dumps([case, times]) + "\n")
        self.pipe.stdin.flush()
        answer = self.pipe.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.framework} ended in {case}")
        answer = json.loads(answer)
        if times:
            return answer
        import numpy as np
        try:
            with np.load(answer) as file:
                return [file[f"arr_{i}"] for i in range(len(file.files))]
        finally:
            os.unlink(answer)

    def end(self):
        self.pipe.stdin.close()
        self.pipe.wait()


def keep(results):
    """The path of a file with these arrays."""
    import numpy as np
    path = tempfile.mkstemp(suffix=".npz")[1]
    np.savez(path, *[np.asarray(a) for a in results])
    return path


def serve(make, framework, threads, gradients=False):
    settle(framework, threads)
    if library(framework) == "torch" and not gradients:
        import torch
        torch.set_grad_enabled(False)
    known = None
    for line in sys.stdin:
        case, times = json.loads(line)
        if case != known or times == 0:
            f, known = make(framework, case), case
            if times == 0:
                print(json.dumps(keep(f())), flush=True)
                continue
            for _ in range(3):
                f()
        f()  # threads and caches are awake
        start = time.perf_counter()
        for _ in range(times):
            f()
        print(json.dumps((time.perf_counter() - start) / times), flush=True)


def turns(workers, case, repeats, threads, of=statistics.median):
    """Seconds of a call of each worker, the median (or `of`) of the turns that they take."""
    calls = {f: max(1, int(BLOCK / w.ask(case, 1))) for f, w in workers.items()}
    taken = {f: [] for f in workers}
    for _ in range(repeats):
        for f, w in workers.items():
            taken[f].append(w.ask(case, calls[f]))
            time.sleep(PAUSE if threads > 1 else 0.002)
    return {f: of(v) for f, v in taken.items()}


def main(file, make, frameworks, cases, label, work, doc, unit="GFLOP/s", check=None, gradients=False, apart=()):
    """Prints a row for each case: microseconds and speed of each framework, and ours against the best peer.

    work: floating-point operations (or bytes) of a case; with None, milliseconds and each peer's ratio to ours.
    check(case, results): a word on whether the frameworks' results, lists of arrays, agree. gradients: PyTorch is to
    keep track of them. apart: frameworks that are shown, and are no peers.
    """
    p = argparse.ArgumentParser(description=doc.split("\n")[0])
    p.add_argument("--threads", default=",".join(map(str, sorted({1, CORES}))), help="numbers, one table for each")
    p.add_argument("--repeats", type=int, default=15)
    p.add_argument("--least", action="store_true", help="the least of the turns: for one thread of a noisy machine")
    p.add_argument("--only", default="", help="rows whose label contains this")
    p.add_argument("--worker", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return serve(make, args.worker, int(args.threads), gradients)
    here = []
    for f in frameworks:
        if installed(f):
            here.append(f)
        else:
            print(f"{f}: not installed")
    for threads in map(int, args.threads.split(",")):
        units = f"microseconds ({unit})" if work else "milliseconds (times ours)"
        what = "least" if args.least else "medians"
        print(f"{threads} thread{'s' * (threads > 1)}; {units}, {what} of {args.repeats} turns")
        workers = {f: Worker(file, f, threads) for f in here}
        for case in cases:
            name = label(case)
            if args.only not in name:
                continue
            word = check(case, {f: w.ask(case, 0) for f, w in workers.items() if f not in apart}) if check else ""
            t = turns(workers, case, args.repeats, threads, min if args.least else statistics.median)
            ratio = min((v for f, v in t.items() if f != "knet" and f not in apart), default=t["knet"]) / t["knet"]
            if work:
                digits = 0 if unit == "GFLOP/s" else 1
                cells = "  ".join(f"{f} {v * 1e6:9.1f} ({work(case) / v * 1e-9:5.{digits}f})" for f, v in t.items())
            else:
                cells = "  ".join(f"{f} {v * 1e3:9.3f} ({v / t['knet']:6.2f})" for f, v in t.items())
            print(f"{name:34} {cells}  best peer {ratio:5.2f} x ours  {word}", flush=True)
        for w in workers.values():
            w.end()
