"""Random programs for test_fuzz.py: lists of steps that were drawn while NumPy ran them, so that every step is legal.
They can then be run by NumPy or by knet."""
import math
from dataclasses import dataclass, field

import numpy as np

import knet

FLOATS = ("float32", "float64")
INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass
class Variable:
    value: np.ndarray
    exact: bool  # free of rounding: comparisons, floors and index arrays of it mean the same everywhere


@dataclass
class Program:
    seed: int
    leaves: list = field(default_factory=list)   # NumPy arrays
    steps: list = field(default_factory=list)    # (text, arguments, function, results, dropped)
    outputs: list = field(default_factory=list)  # variables that are alive at the end
    single: bool = False                         # some value is float32

    def __str__(self):
        lines = [f"program {self.seed}"]
        lines += [f"  v{i} = leaf {x.dtype}{x.shape}" for i, x in enumerate(self.leaves)]
        for text, arguments, _, results, dropped in self.steps:
            names = ", ".join(f"v{i}" for i in arguments)
            lines.append(f"  {', '.join(f'v{i}' for i in results)} = {text}({names})" + (f"  del {dropped}" if dropped else ""))
        return "\n".join(lines + [f"  return {self.outputs}"])

    def run(self, xp, leaves, read=None):
        """What is alive at the end. `read`: a random generator; some values are then read on the way."""
        alive = dict(enumerate(leaves))
        for _, arguments, function, results, dropped in self.steps:
            values = function(xp, *(alive[i] for i in arguments))
            values = values if isinstance(values, tuple) else (values,)
            if xp is np:
                values = tuple(v if v is alive.get(i) else np.array(v) for i, v in zip(results, values))
            alive.update(zip(results, values))
            del values
            for i in dropped:
                del alive[i]
            if read is not None and read.random() < 0.3:
                peek(alive[read.choice(list(alive))], read)
        return [alive[i] for i in self.outputs]


def peek(x, rng):
    """Have a value computed, in one of the ways in which a program may ask for it."""
    how = rng.integers(4)
    if how == 0 and x.size:
        x.reshape(-1)[int(rng.integers(x.size))].item()
    elif how == 1:
        repr(x)
    elif how == 2:
        bool((x == x).all())
    else:
        knet.value(x).tolist()


# ---- how programs are drawn

def shape_of(rng, rank=None):
    rank = rng.choice([0, 1, 1, 2, 2, 2, 3, 3, 4]) if rank is None else rank
    return tuple(int(rng.choice([0, 1, 2, 3, 4, 5, 7], p=[.02, .12, .2, .24, .2, .12, .1])) for _ in range(rank))


def draw(rng, dtype, shape):
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype in INTS:
        return rng.integers(0 if dtype[0] == "u" else -5, 6, shape).astype(dtype)
    return np.asarray(rng.normal(size=shape)).astype(dtype)


def draw_key(rng, shape, wild=False):
    """A random index of NumPy's for that shape: integers, slices, None, ..., arrays and masks in any mixture."""
    block = shape_of(rng, int(rng.integers(3)))
    items, used, rest = [], 0, rng.random() < 0.4
    while used < len(shape) and rng.random() < 0.85:
        n = shape[used]
        kind = rng.choice(["int", "slice", "slice", "array", "mask", "planes", "new", "rest", "true"],
                          p=[.17, .2, .2, .15, .06, .05, .08, .07, .02])
        off = 1 if wild and rng.random() < 0.1 else 0
        if kind == "int" and n:
            items.append(int(rng.integers(-n - off, n + off)))
        elif kind == "slice":
            ends = [None if rng.random() < 0.4 else int(rng.integers(-n - 2, n + 3)) for _ in range(2)]
            items.append(slice(*ends, rng.choice([None, 1, 2, 3, -1, -2, -3])))
        elif kind == "array" and n:
            s = block[int(rng.integers(len(block) + 1)):]
            s = tuple(1 if rng.random() < 0.2 else d for d in s)
            a = rng.integers(-n - off, n + off, s)
            items.append(a.tolist() if rng.random() < 0.3 else a.astype(rng.choice(["int64", "int32", "int8"])))
        elif kind == "mask":
            items.append(rng.random(n) < 0.5)
        elif kind == "planes" and used + 1 < len(shape):
            items.append(rng.random(shape[used:used + 2]) < 0.5)
            used += 1
        elif kind in ("new", "rest", "true"):
            if kind == "rest" and not rest:
                continue
            rest &= kind != "rest"
            items.append({"new": None, "rest": ..., "true": bool(rng.random() < 0.8)}[kind])
            continue
        else:
            continue
        used += 1
    return items[0] if len(items) == 1 and rng.random() < 0.5 else tuple(items)


def axes_of(rng, rank):
    how = rng.integers(3)
    if how == 0 or rank == 0:
        return None
    if how == 1:
        return int(rng.integers(-rank, rank))
    return tuple(int(a) for a in rng.permutation(rank)[:rng.integers(1, rank + 1)])


def smooth(name, *constants):
    return name, lambda xp, *xs: getattr(xp, name)(*xs, *constants)


SMOOTH = [smooth(n) for n in ("tanh", "sin", "cos", "square", "negative", "arctan", "expm1", "exp", "sinh", "cosh")] + [
    ("safe_log", lambda xp, x: xp.log(1.5 + x * x)), ("safe_sqrt", lambda xp, x: xp.sqrt(0.5 + x * x)),
    ("inverse", lambda xp, x: 1 / (1 + x * x)), ("cube", lambda xp, x: x ** 3), ("scaled", lambda xp, x: 0.3 * x - 2),
    ("reflected", lambda xp, x: 2.5 - x), ("power", lambda xp, x: 1.3 ** x), ("twice", lambda xp, x: x + x)]
KINKED = [smooth("abs"), ("relu", lambda xp, x: xp.maximum(x, 0)), ("clip", lambda xp, x: xp.clip(x, -1, 1.5)), smooth("positive")]
STEPS = [smooth("sign"), smooth("floor"), smooth("rint"), smooth("isnan"), ("test", lambda xp, x: x > 0), smooth("logical_not")]
PAIRS = [("+", lambda xp, a, b: a + b), ("-", lambda xp, a, b: a - b), ("*", lambda xp, a, b: a * b), smooth("maximum"), smooth("minimum"),
         ("hypot1", lambda xp, a, b: xp.sqrt(1 + a * a + b * b)), ("ratio", lambda xp, a, b: a / (1 + b * b)),
         ("arctan2", lambda xp, a, b: xp.arctan2(a, 1 + b * b))]
TESTS = [smooth(n) for n in ("less", "less_equal", "equal", "not_equal", "greater", "logical_and", "logical_xor")]
WHOLE = [("//", lambda xp, a, b: a // b), ("%", lambda xp, a, b: a % b), ("&", lambda xp, a, b: a & b), ("|", lambda xp, a, b: a | b),
         ("^", lambda xp, a, b: a ^ b), ("~", lambda xp, a, b: ~a)]


class Maker:
    """Draws programs. `dtypes`: of the leaves; `gradient`: only steps with a derivative almost everywhere, in float64."""

    def __init__(self, seed, length, gradient=False, big=False):
        self.rng = np.random.default_rng(seed)
        self.program = Program(seed)
        self.gradient = gradient
        self.big = big
        self.variables = {}
        self.count = 0
        rng = self.rng
        for _ in range(int(rng.integers(1, 5))):
            dtype = "float64" if gradient else str(rng.choice(FLOATS * 4 + INTS + ("bool",)))
            shape = (int(rng.integers(20, 60)), int(rng.integers(500, 1500))) if big else shape_of(rng)
            self.leaf(draw(rng, dtype, shape))
        for _ in range(length):
            try:
                self.step()
            except Refused:
                pass
        if self.gradient or rng.random() < 0.7:
            alive = [i for i in self.variables if rng.random() < 0.5] or list(self.variables)[-1:]
        else:
            alive = list(self.variables)
        self.program.outputs = alive

    def leaf(self, x):
        self.program.leaves.append(x)
        self.program.single |= x.dtype == np.float32
        self.variables[self.count] = Variable(x.copy(), True)
        self.count += 1

    def pick(self, where=lambda v: True):
        fitting = [i for i, v in self.variables.items() if where(v)]
        if not fitting:
            raise Refused
        weights = np.arange(1, len(fitting) + 1.0)
        return int(self.rng.choice(fitting, p=weights / weights.sum()))

    def add(self, text, arguments, function, exact, into=None):
        """Run the step with NumPy, and keep it unless the numbers leave the range in which comparing them means something."""
        xs = [self.variables[i].value.copy() for i in arguments]
        with np.errstate(all="ignore"):
            try:
                values = function(np, *xs)
            except (ValueError, IndexError, TypeError) as e:
                raise Refused from e
        values = tuple(np.array(v) for v in (values if isinstance(values, tuple) else (values,)))
        limit = 4_000_000 if self.big else 3000
        small = any(x.dtype.itemsize < 4 for x in xs)
        for v in values:
            if small and v.dtype.kind == "f" and ("ratio" in text or "arctan2" in text or text == "inverse"):
                raise Refused  # NumPy makes float64, or float16, of small integers; knet makes float32
            if v.dtype.kind == "f" and not np.all(np.abs(v) < (30 if self.gradient else 100)):
                raise Refused
            if v.size > limit or v.ndim > 8 or v.dtype in (np.float16, np.longdouble) or v.dtype.kind not in "fiub":
                raise Refused
        results = [into] if into is not None else list(range(self.count, self.count + len(values)))
        self.count += 0 if into is not None else len(values)
        for i, v in zip(results, values):
            self.program.single |= v.dtype == np.float32
            self.variables[i] = Variable(v, exact or v.dtype.kind in "iub" and all(self.variables[a].exact for a in arguments))
        dropped = []
        while len(self.variables) > 2 and self.rng.random() < 0.35:
            i = int(self.rng.choice(list(self.variables)[:-1]))
            dropped.append(i)
            del self.variables[i]
        self.program.steps.append((text, arguments, function, results, dropped))

    # ---- the kinds of step

    def step(self):
        kinds = {"one": 4, "two": 5, "number": 2, "foreign": 1, "reduce": 3, "move": 4, "join": 2, "index": 4, "assign": 3, "update": 3,
                 "product": 2, "gathered": 2, "sorted": 1, "choose": 1.5, "scan": 1}
        if not self.gradient:
            kinds |= {"convert": 2, "test": 2, "whole": 2, "place": 1, "level": 1}
        p = np.array(list(kinds.values()), float)
        getattr(self, str(self.rng.choice(list(kinds), p=p / p.sum())))()

    def choice(self, items):
        return items[int(self.rng.integers(len(items)))]

    def one(self):
        i = self.pick()
        x = self.variables[i]
        if self.rng.random() < 0.3:
            text, f = self.choice(KINKED)
            return self.add(text, [i], f, x.exact and x.value.dtype.kind == "f")
        text, f = self.choice(SMOOTH)
        if x.value.dtype == bool and text in ("cube", "square"):
            raise Refused  # knet asks for numbers
        self.add(text, [i], f, False)

    def level(self):
        text, f = self.choice(STEPS)
        i = self.pick(lambda v: v.exact)
        self.add(text, [i], f, True)

    def pair(self, where=lambda v: True):
        i = self.pick(where)
        shape = self.variables[i].value.shape

        def fits(v):
            try:
                np.broadcast_shapes(shape, v.value.shape)
            except ValueError:
                return False
            return where(v)
        j = self.pick(fits)
        return [i, j] if self.rng.random() < 0.5 else [j, i]

    def two(self):
        self.add(*self.two_of(PAIRS), False)

    def two_of(self, items, where=lambda v: True):
        arguments = self.pair(where)
        text, f = self.choice(items)
        return text, arguments, f

    def test(self):
        self.add(*self.two_of(TESTS, lambda v: v.exact), True)

    def whole(self):
        text, arguments, f = self.two_of(WHOLE, lambda v: v.exact and v.value.dtype.kind in "iub")
        if text in "//%" and all(self.variables[i].value.dtype == bool for i in arguments):
            raise Refused  # NumPy makes int8 of it, knet asks what is meant
        self.add(text, arguments, f, True)

    def number(self):
        """Python numbers, on either side."""
        i = self.pick()
        text, f = self.choice(PAIRS)
        c = self.choice([2, -3, 0.5, -1.25, True]) if self.variables[i].value.dtype.kind == "f" else self.choice([1, 2, 0.5])
        if self.rng.random() < 0.5:
            self.add(f"{text} {c}", [i], lambda xp, a: f(xp, a, c), False)
        else:
            self.add(f"{c} {text}", [i], lambda xp, a: f(xp, c, a), False)

    def foreign(self):
        """NumPy arrays and scalars as operands."""
        i = self.pick()
        text, f = self.choice(PAIRS[:3])
        shape = self.variables[i].value.shape
        shape = shape[int(self.rng.integers(len(shape) + 1)):]
        c = draw(self.rng, "float64" if self.gradient else str(self.choice(FLOATS + INTS)), shape)
        c = c[()] if self.rng.random() < 0.5 else c
        if self.rng.random() < 0.5:
            self.add(f"{text} NumPy {c.dtype}{shape}", [i], lambda xp, a: f(xp, a, c), False)
        else:
            self.add(f"NumPy {c.dtype}{shape} {text}", [i], lambda xp, a: f(xp, c, a), False)

    def reduce(self):
        i = self.pick()
        x = self.variables[i]
        names = ["sum", "sum", "mean", "max", "min", "prod", "var", "std"]
        if not self.gradient and x.exact:
            names += ["argmax", "argmin", "any", "all"]
        name = self.choice(names)
        axes = axes_of(self.rng, x.value.ndim)
        if name.startswith("arg") and isinstance(axes, tuple):
            axes = axes[0]
        if name == "std" and self.gradient or name in ("max", "min") and x.value.dtype == bool:
            raise Refused
        options = {"axis": axes, "keepdims": bool(self.rng.random() < 0.4)}
        as_method = self.rng.random() < 0.5
        self.add(f"{name} {options}", [i], lambda xp, a: getattr(a, name)(**options) if as_method else getattr(xp, name)(a, **options),
                 x.exact and name in ("max", "min", "any", "all", "argmax", "argmin"))

    def scan(self):
        i = self.pick()
        rank = self.variables[i].value.ndim
        if rank == 0:
            raise Refused
        name, axis = self.choice(["cumsum", "cumsum", "cumprod"]), int(self.rng.integers(-rank, rank))
        self.add(f"{name} {axis}", [i], lambda xp, a: getattr(xp, name)(a, axis=axis), False)

    def move(self):
        rng = self.rng
        i = self.pick()
        x = self.variables[i]
        shape, rank = x.value.shape, x.value.ndim
        order = tuple(int(a) for a in rng.permutation(rank))
        axis = int(rng.integers(-rank, rank)) if rank else None
        target = tuple(int(d) for d in rng.permutation([d for d in shape if d != 1]))
        moves = [(f"transpose {order}", lambda xp, a: xp.transpose(a, order)), ("T", lambda xp, a: a.T),
                 (f"reshape {target}", lambda xp, a: a.reshape(target)), ("ravel", lambda xp, a: a.reshape(-1)),
                 ("squeeze", lambda xp, a: xp.squeeze(a)), (f"flip {axis}", lambda xp, a: xp.flip(a, axis=axis)),
                 (f"roll {axis}", lambda xp, a: xp.roll(a, 2, axis=axis)), ("copy", lambda xp, a: a.copy())]
        if rank:
            wide = tuple(3 if d == 1 else d for d in shape)
            moves += [("broadcast", lambda xp, a: xp.broadcast_to(a, (2,) + wide)),
                      (f"expand {axis}", lambda xp, a: xp.expand_dims(a, axis)), (f"repeat {axis}", lambda xp, a: xp.repeat(a, 2, axis=axis)),
                      (f"swap {axis}", lambda xp, a: xp.swapaxes(a, axis, 0)), ("tile", lambda xp, a: xp.tile(a, (2,) * rank)),
                      ("pad", lambda xp, a: xp.pad(a, [(1, 0)] * rank)),
                      (f"halves {axis}", lambda xp, a: tuple(xp.split(a, [shape[axis] // 2], axis=axis)))]
        if rank >= 2:
            moves += [("tril", lambda xp, a: xp.tril(a)), ("triu", lambda xp, a: xp.triu(a, 1)), ("diagonal", lambda xp, a: xp.diagonal(a)),
                      ("move", lambda xp, a: xp.moveaxis(a, 0, -1))]
        text, f = self.choice(moves)
        self.add(text, [i], f, x.exact)

    def join(self):
        rng = self.rng
        i = self.pick()
        shape = self.variables[i].value.shape
        if rng.random() < 0.4:
            others = [i] + [self.pick(lambda v: v.value.shape == shape) for _ in range(int(rng.integers(3)))]
            axis = int(rng.integers(-len(shape) - 1, len(shape) + 1))
            return self.add(f"stack {axis}", others, lambda xp, *a: xp.stack(a, axis=axis), all(self.variables[k].exact for k in others))
        if not shape:
            raise Refused
        axis = int(rng.integers(len(shape)))

        def fits(v):
            return v.value.ndim == len(shape) and all(a == b for k, (a, b) in enumerate(zip(shape, v.value.shape)) if k != axis)
        others = [i] + [self.pick(fits) for _ in range(int(rng.integers(4)))]
        self.add(f"concatenate {axis}", others, lambda xp, *a: xp.concatenate(a, axis=axis), all(self.variables[k].exact for k in others))

    def key(self, shape):
        key = draw_key(self.rng, shape)
        try:
            places = np.arange(math.prod(shape)).reshape(shape)[key]
        except IndexError:
            raise Refused from None
        if places.size == 0 and any(isinstance(k, (np.ndarray, list)) for k in (key if isinstance(key, tuple) else (key,))):
            raise Refused  # NumPy does not look at indices that take nothing
        return key, places

    def index(self):
        i = self.pick()
        key, _ = self.key(self.variables[i].value.shape)
        ours = self.rng.random() < 0.3
        self.add(f"[{key!r}]", [i], lambda xp, a: a[to_ours(key) if ours and xp is knet else key], self.variables[i].exact)

    def place(self):
        """An index that was computed."""
        i = self.pick(lambda v: v.value.ndim and v.value.shape[0])
        j = self.pick(lambda v: v.exact and v.value.dtype.kind == "i")
        n = self.variables[i].value.shape[0]
        self.add("[v % n]", [i, j], lambda xp, a, k: a[k % n if n < 100 else k % 100], self.variables[i].exact)

    def assign(self):
        rng = self.rng
        i = self.pick()
        x = self.variables[i]
        key, places = self.key(x.value.shape)
        if np.unique(places).size < places.size:
            raise Refused  # the same place twice: NumPy does not promise which value stays
        part = places.shape

        def fits(v):
            try:
                return np.broadcast_shapes(v.value.shape, part) == part and np.can_cast(v.value.dtype, x.value.dtype, "same_kind")
            except ValueError:
                return False
        if rng.random() < 0.3:
            c = self.choice([0, 1, 2.5]) if x.value.dtype.kind == "f" else 1
            return self.add(f"[{key!r}] = {c}", [i], lambda xp, a: assigned(a, key, c), False, into=i)
        j = self.pick(fits)
        exact = x.exact and self.variables[j].exact
        if i == j:
            raise Refused
        self.add(f"[{key!r}] =", [i, j], lambda xp, a, v: assigned(a, key, v), exact, into=i)

    def update(self):
        """a += b and its like; `a` is the same handle, nothing else changes."""
        i = self.pick()
        x = self.variables[i].value

        def fits(v):
            try:
                return np.broadcast_shapes(v.value.shape, x.shape) == x.shape and np.result_type(v.value, x) == x.dtype != bool
            except ValueError:
                return False
        j = self.pick(fits)
        sign = self.choice(["+=", "-=", "*="])
        if self.rng.random() < 0.3:
            key = draw_key(self.rng, x.shape)
            if any(isinstance(k, (np.ndarray, list)) for k in (key if isinstance(key, tuple) else (key,))):
                raise Refused
            return self.add(f"[{key!r}] {sign} 2", [i], lambda xp, a: updated_part(a, key, sign), False, into=i)
        self.add(sign, [i, j], lambda xp, a, b: updated(a, b, sign), False, into=i)

    def product(self):
        rng = self.rng
        i = self.pick(lambda v: v.value.ndim >= 1 and v.value.dtype != bool)
        n = self.variables[i].value.shape[-1]
        j = self.pick(lambda v: v.value.ndim >= 1 and v.value.dtype != bool and v.value.shape[-min(2, v.value.ndim)] == n
                      or v.value.ndim >= 2 and v.value.shape[-1] == n)
        y = self.variables[j].value
        if y.dtype == bool:
            raise Refused
        swap = y.shape[-min(2, y.ndim)] != n
        if rng.random() < 0.25 and self.variables[i].value.ndim == 2 and y.ndim == 2:
            rule = "ij,kj->ki" if swap else "ij,jk->ki"
            return self.add(f"einsum {rule}", [i, j], lambda xp, a, b: xp.einsum(rule, a, b), False)
        self.add("@ T" if swap else "@", [i, j], lambda xp, a, b: a @ (b.swapaxes(-1, -2) if swap else b), False)

    def gathered(self):
        rng = self.rng
        i = self.pick(lambda v: v.value.ndim and v.value.size)
        shape = self.variables[i].value.shape
        axis = int(rng.integers(len(shape)))
        if rng.random() < 0.5:
            k = rng.integers(-shape[axis], shape[axis], shape_of(rng, int(rng.integers(3))))
            return self.add(f"take {axis} {k.shape}", [i], lambda xp, a: xp.take(a, k, axis=axis), self.variables[i].exact)
        k = rng.integers(0, shape[axis], shape[:axis] + (3,) + shape[axis + 1:])
        self.add(f"take_along_axis {axis}", [i], lambda xp, a: xp.take_along_axis(a, k, axis=axis), self.variables[i].exact)

    def sorted(self):
        i = self.pick(lambda v: v.value.ndim)
        axis = int(self.rng.integers(-self.variables[i].value.ndim, 0))
        self.add(f"sort {axis}", [i], lambda xp, a: xp.sort(a, axis=axis), self.variables[i].exact)

    def choose(self):
        i, j = self.pair()
        shape = np.broadcast_shapes(self.variables[i].value.shape, self.variables[j].value.shape)
        c = self.rng.random(shape) < 0.5
        exact = self.variables[i].exact and self.variables[j].exact
        same = self.variables[i].value.dtype == self.variables[j].value.dtype
        self.add(f"where {shape}", [i, j], lambda xp, a, b: xp.where(c, a, b), exact and same)

    def convert(self):
        i = self.pick(lambda v: v.exact or v.value.dtype.kind != "f")
        to = str(self.choice(FLOATS + INTS + ("bool",)))
        x = self.variables[i].value
        if x.dtype.kind == "f" and to in INTS and (to[0] == "u" and np.any(x <= -1)):
            raise Refused  # undefined in C
        self.add(f"astype {to}", [i], lambda xp, a: a.astype(to), self.variables[i].exact and x.dtype.kind != "f")


class Refused(Exception):
    """A step that does not fit."""


def to_ours(key):
    if isinstance(key, tuple):
        return tuple(map(to_ours, key))
    return knet.array(key) if isinstance(key, np.ndarray) else key


def assigned(a, key, v):
    a[key] = v
    return a


def updated(a, b, sign):
    if sign == "+=":
        a += b
    elif sign == "-=":
        a -= b
    else:
        a *= b
    return a


def updated_part(a, key, sign):
    if sign == "+=":
        a[key] += 2
    elif sign == "-=":
        a[key] -= 2
    else:
        a[key] *= 2
    return a
