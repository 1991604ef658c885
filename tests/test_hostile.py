"""Awkward arguments for every public function, method and operator: an exception of a few classes, never a signal, a hang, or
a broken engine. The calls are made in child processes with an alarm and a limit on memory; `pytest tests/test_hostile.py --fuzz 100`
makes a hundred times as many.

`python tests/test_hostile.py SEED CALLS` makes them here and shows how often each message was seen."""
import collections
import decimal
import fractions
import math
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest

import knet
from knet.ops.define import REGISTRY

CLASSES = (TypeError, ValueError, IndexError, MemoryError, OverflowError, RuntimeError, AttributeError, BufferError,
           ZeroDivisionError, KeyError, NotImplementedError, RecursionError)
# What only a broken engine would say.
INTERNAL = ("an exception was lost", "unknown error", "vector::", "basic_string", "std::", "bad_alloc", "bad_function", "assert", "SystemError")
SECONDS = 20       # for one call
BYTES = 6 << 30    # of address space

# ---- arguments


class BadIndex:
    def __index__(self):
        raise KeyError("from __index__")


class Lies:
    """A sequence that is not what it says."""
    def __len__(self):
        return 3

    def __getitem__(self, i):
        raise ZeroDivisionError("from __getitem__")


class Grows(list):
    """A list that grows while it is read."""
    def __index__(self):
        return 1


def growing():
    items = [1, 2]

    class Item:
        def __index__(self):
            items.append(3)
            return 0
    items.insert(1, Item())
    return items


def shrinking():
    items = []

    class Item:
        def __index__(self):
            items.clear()
            return 0
    items.extend([Item(), 1, 2, 3])
    return items


def failed():
    x = knet.array([1.0, 2.0])[knet.array([0, 7])]
    try:
        x.item(0)
    except IndexError:
        pass
    return x


def plain_values():
    return [
        None, True, False, 0, 1, -1, 2, 3, 5, -7, 1000, 2**31, -2**31, 2**32, 2**62, 2**63 - 1, 2**63, -2**63, 2**64, 10**30, -10**30,
        0.0, -0.0, 0.5, -1.5, 1e308, math.nan, math.inf, -math.inf, 1j, decimal.Decimal("1.5"), fractions.Fraction(1, 3),
        "", "a", "float32", "int64", "bool", "float16", "complex64", "nonsense", "cpu", "cuda:0", "ij,jk->ik", "ij->", "...", "ii", "i,j,k,l->",
        "\0", "\ud800", "x" * 1000, b"abc", bytearray(b"abc"), memoryview(b"abcdefgh"), memoryview(np.arange(6.0).reshape(2, 3)),
        [], (), [[]], [[], []], [1, 2], [1, [2]], [[1], [1, 2]], [None], ["a"], [1, "a"], [[[[1.0]]]], [True, False], [0.5, 1], [2**64], [math.nan],
        (0,), (1,), (-1,), (0, 1), (0, 0), (1, 0), (-1, -1), (2, 3), (3, 2), (-2, 3), (1, 2, 3), (2**40, 2**40), (2**62, 4), (0, 2**62),
        (1,) * 12, (1,) * 13, (2,) * 12, tuple(range(20)), (10**30,), (0.5, 1), ("a", 1), (None, None), ((0, 1), (2, 3)), ((1, 1),), ((1, -1), (2, 2)),
        (..., 0), (None, 0), slice(None), slice(5, 1, -1), slice(None, None, 0), slice("a"), slice(2**70), slice(-2**70, 2**70, 2**69), ...,
        (slice(None), [0, 1]), ([0, 1], [0, 1]), ([0], [0, 1, 2]), NotImplemented, {}, {"a": 1}, {1, 2}, frozenset(), range(3), range(1000), object(), object,
        int, float, knet.KnetArray, knet, len, lambda x: x, lambda *a: None, lambda: 0, iter([1, 2]), (i for i in range(3)),
        np.float32, np.dtype("int8"), np.dtype([("a", "f4")]), knet.float32, knet.int64, BadIndex(), Lies(), Grows([1, 2]), Exception("x"), [BadIndex()],
        np.float64(1.5), np.float32(2), np.int8(-1), np.uint64(2**64 - 1), np.bool_(True), np.float16(1), np.complex64(1j), np.str_("a"),
        np.datetime64("2020-01-01"), np.array("a"), np.array(None), np.array([1, "a"], dtype=object), np.zeros(2, "S3"), np.zeros(2, "c8"), np.zeros(3, "f2"),
        np.zeros(2, [("a", "f4"), ("b", "i2")]), np.zeros(2, ">f4"), np.zeros((0,)), np.zeros((3, 0)), np.zeros(()), np.arange(4), np.arange(12.0).reshape(3, 4)[::-1, ::2],
        np.broadcast_to(1.0, (2, 3)), np.broadcast_to(np.float32(1), (2**20, 2**20)), np.arange(6).reshape(2, 3).T, np.array([True, False, True]),
        np.array([math.nan, math.inf, -math.inf]), np.array([2**63, 1], np.uint64), np.array([-2**63, 2**63 - 1]), np.ma.masked_array([1.0, 2], [True, False]),
        np.matrix([[1, 2]]), np.zeros((1,) * 14), np.array([], dtype=bool), np.array([0, 1, 2**40]), np.frombuffer(b"\0" * 9, "u1")[1:].view("f4"),
    ]


def array_values():
    rng = np.random.default_rng(0)
    made = [knet.array(rng.normal(size=s).astype("float32")) for s in
            ((), (0,), (1,), (3,), (5,), (2, 3), (3, 2), (3, 3), (0, 3), (3, 0), (2, 3, 4), (1, 2, 6), (1, 1, 5, 5), (2, 3, 6, 6), (4, 3, 2, 2), (2, 1, 3, 4, 5), (1,) * 12)]
    made += [knet.array(rng.normal(size=(3, 3))), knet.array(rng.integers(-5, 5, (2, 3))), knet.array(rng.integers(0, 3, 3)), knet.array([True, False, True]),
             knet.array(np.array([0, 2**64 - 1], "uint64")), knet.array(np.array([-128, 127], "int8")), knet.array([math.nan, math.inf, -math.inf, 0.0]),
             knet.array([2**62, -2**63]), knet.array(1), knet.array(True), knet.array(2.5), knet.zeros((2, 3))[:, ::-1], knet.ones((3, 3)) * 2, knet.arange(4).reshape(2, 2).T]
    return made


# ---- what is called

SKIPPED = {"seed",  # changes the other tests' numbers
           "explain", "gradcheck"}  # call functions


def targets():
    """(name, function) for everything that a user can call."""
    found = []
    for name in dir(knet):
        f = getattr(knet, name)
        if name[0] != "_" and callable(f) and name not in SKIPPED and not isinstance(f, type(knet)) and not isinstance(f, type):
            found.append((f"knet.{name}", f))
    for name in REGISTRY:
        if name not in dir(knet) and REGISTRY[name].fn is not None:
            found.append((f"ops.{name}", REGISTRY[name].fn))
    found.append(("KnetArray", knet.KnetArray))
    for name in dir(knet.KnetArray):
        if name in ("__class__", "__subclasshook__", "__init_subclass__", "__new__", "__getattribute__", "__setattr__", "__delattr__", "__buffer__", "__sizeof__"):
            continue
        f = getattr(knet.KnetArray, name)
        if callable(f):
            found.append((f"KnetArray.{name}", f))
    found += [("get", lambda x, k: x[k]), ("set", assign), ("grad", differentiated), ("setting", setting)]
    return found


def assign(x, k, v):
    x = x.copy()
    x[k] = v
    return x


def differentiated(f, *args):
    """The derivative of any of the functions that was drawn, by its first argument."""
    return knet.grad(lambda x: knet.sum(f(x, *args[1:])))(args[0])


def setting(name, value):
    before = getattr(knet.config, name)
    try:
        setattr(knet.config, name, value)
    finally:
        setattr(knet.config, name, before)


def keyword_names(f):
    entry = getattr(f, "__signature__", None)
    names = list(entry.parameters) if entry else ["axis", "dtype", "keepdims", "axes", "shape"]
    return [n for n in names if n.isidentifier()] or ["axis"]


class Caller:
    def __init__(self, seed, note=lambda text: None):
        self.rng = random.Random(seed)
        self.note = note
        self.targets = targets()
        self.plain, self.arrays = plain_values(), array_values()
        self.settings = [n for n in dir(type(knet.config)) if n[0] != "_"]
        self.messages = collections.Counter()
        self.done = 0

    def value(self):
        r = self.rng.random()
        if r < 0.55:
            return self.rng.choice(self.arrays)
        if r < 0.57:
            return self.rng.choice((growing, shrinking, failed))()
        if r < 0.63:
            return [self.value() for _ in range(self.rng.randrange(4))]
        return self.rng.choice(self.plain)

    def call(self):
        rng = self.rng
        name, f = rng.choice(self.targets)
        args = [self.value() for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5)))]
        kwargs = {}
        if name.startswith("KnetArray."):
            args.insert(0, rng.choice(self.arrays) if rng.random() < 0.97 else self.value())
            if name[10:12] == "__" and name[12] == "i":
                args[0] = args[0].copy() if isinstance(args[0], knet.KnetArray) else args[0]  # the others go on
        elif name in ("get", "set"):
            args = [rng.choice(self.arrays)] + [self.value() for _ in range(1 + (name == "set"))]
        elif name == "grad":
            args = [rng.choice(self.targets[:-4])[1], rng.choice(self.arrays)] + args
        elif name == "setting":
            args = [rng.choice(self.settings), self.value()]
        elif rng.random() < 0.3:
            kwargs = {rng.choice(keyword_names(f)): self.value()}
        self.note(f"{name}({', '.join(map(brief, args))}{', ' if kwargs else ''}{brief(kwargs) if kwargs else ''})")
        try:
            self.use(f(*args, **kwargs))
        except CLASSES as e:
            text = str(e)
            self.messages[(name, type(e).__name__, text[:100])] += 1
            bad = next((word for word in INTERNAL if word in text), None)
            if bad:
                raise AssertionError(f"an internal error reached the user: {type(e).__name__}: {text}") from e
        self.done += 1

    def use(self, y, depth=0):
        """Have it computed."""
        if isinstance(y, knet.KnetArray):
            if y.size < 1 << 20:
                y.numpy()
                repr(y)
        elif isinstance(y, (tuple, list)) and depth < 3:
            for item in y[:20]:
                self.use(item, depth + 1)


def brief(x):
    """What an argument was, in a line; never calls what may fail."""
    if isinstance(x, knet.KnetArray):
        return f"<{x.dtype}{x.shape}>"
    if isinstance(x, np.ndarray):
        return f"np.{x.dtype}{x.shape}"
    if isinstance(x, (list, tuple)) and len(x) < 30:
        inside = ", ".join(map(brief, x))
        return f"[{inside}]" if isinstance(x, list) else f"({inside},)"
    try:
        return repr(x)[:60].encode("ascii", "replace").decode()
    except Exception:
        return type(x).__name__


def make_calls(seed, calls, note=lambda text: None):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    caller = Caller(seed, note)
    x = knet.array([1.0, 2.0])
    for i in range(calls):
        signal.alarm(SECONDS)
        caller.call()
        if i % 50 == 0:
            assert (x * 2 + 1).tolist() == [3.0, 5.0], "the engine computes no longer"
    signal.alarm(0)
    return caller


# ---- the tests

def child(seed, calls, path):
    if "libasan" not in os.environ.get("LD_PRELOAD", "") and "libtsan" not in os.environ.get("LD_PRELOAD", ""):
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 4096) as page:
        def note(text):
            page[:] = text.encode()[:4096].ljust(4096, b"\0")
        make_calls(seed, calls, note)


CALLS = 2500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals and limits")
@pytest.mark.parametrize("group", range(4))
def test_awkward_arguments(group, request):
    for seed in range(group, 4 * request.config.getoption("--fuzz"), 4):
        with tempfile.NamedTemporaryFile() as f:
            f.write(b"\0" * 4096)
            f.flush()
            p = subprocess.run([sys.executable, "-W", "ignore", "-X", "faulthandler", __file__, str(seed), str(CALLS), f.name],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
            f.seek(0)
            last = f.read().rstrip(b"\0").decode()
        assert p.returncode == 0, f"seed {seed}: status {p.returncode} at\n{last}\n{p.stderr[-3000:]}"


def test_no_function_returns_its_argument():
    """An update in place of a result must not reach the argument."""
    def parts(y):
        for v in y if isinstance(y, (tuple, list)) else (y,):
            if isinstance(v, (tuple, list)):
                yield from parts(v)
            else:
                yield v
    for name, f in targets():
        if name.startswith("KnetArray.__i") or name in ("get", "set", "grad", "setting", "knet.value"):
            continue
        for shape in ((), (1,), (1, 1), (0,), (3,), (2, 2)):
            for dtype in ("float32", "int32", "bool"):
                for more in ((), (0,), (1,), (None,), ((),), (shape,), (dtype,), ("cpu",)):
                    x = knet.ones(shape, dtype)
                    for arguments in ((x, *more), ([x], *more)):
                        try:
                            y = f(*arguments)
                        except Exception:
                            continue
                        assert not any(v is x for v in parts(y)), f"{name}{more} of {dtype}{shape}"


if __name__ == "__main__":
    if len(sys.argv) > 3:
        child(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    else:
        caller = make_calls(int(sys.argv[1]), int(sys.argv[2]), (lambda text: print(text, flush=True)) if os.environ.get("V") else lambda text: None)
        for (name, kind, text), n in caller.messages.most_common():
            print(n, name, kind, text)
