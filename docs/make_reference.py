"""Writes docs/reference.md from the entries of the operations and from docstrings.

    python docs/make_reference.py
"""
import inspect
import re
from importlib import import_module
from pathlib import Path

import numpy as np

import knet
from knet import _core
from knet.ops import REGISTRY, Op
from knet.ops.define import sample

INTRO = """# Reference

Every public name of Knet. This page is generated from the entries in `src/knet/ops` and from docstrings by
`docs/make_reference.py`; `help(knet.conv4)` shows all of a docstring.

Shapes follow NumPy: elementwise operations broadcast; `axis` counts from the end if it is negative; in a reduction it
may be a tuple, and None means all. Where an array is asked for, a `KnetArray`, a NumPy array, a number or a list of
numbers will do. Types follow NumPy too: a Python number takes the type of the array that it meets.

In the tables, *NumPy* names NumPy's functions that are recorded as this operation when they are called on our arrays.
*d* tells whether gradients pass: ✓, to any order; no mark where there are none, or zero almost everywhere.

"""

TITLES = {
    "elementwise": "Elementwise", "activations": "Functions of neural networks", "special": "Special functions",
    "reduce": "Reductions and scans", "shape": "Shapes and joining",
    "create": "Making arrays", "rearrange": "Repeating, rearranging, diagonals",
    "index": "Indexing and sorting", "linalg": "Products", "conv": "Convolution and pooling",
    "random": "Random numbers", "compound": "Soft-max, losses, dropout",
}
OUTSIDE = (
    ("Differentiation", "knet", ("grad", "gradloss", "value_and_grad", "value", "primitive", "Primitive", "gradcheck")),
    ("Arrays", "knet", ("array", "from_dlpack")),
    ("Looking inside", "knet", ("explain", "memory", "trim")),
)
MODULES = ("optim", "train", "init", "data", "tree")


COLUMNS = ("name", "meaning", "kind", "NumPy", "d")
ARRAYS = """Element types: {dtypes}. The half-precision and complex ones have names but no kernels yet.

### Attributes and methods of `KnetArray`

Beside these it has Python's operators and NumPy's indexing, and takes part in NumPy's functions.

"""


def public_names():
    """The public functions of `knet` itself, aliases left out."""
    names = [name for name, entry in REGISTRY.items() if entry.public]
    return names + [name for _, _, more in OUTSIDE for name in more]


def first_sentence(doc):
    """Up to the first full stop that ends a sentence, on one line."""
    text = " ".join(doc.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=[\w)\]\"'`0-9|*…]\.) (?=[A-Z])", text)[0]


def signature(fn):
    if isinstance(fn, type) and issubclass(fn, (Exception, tuple)):
        return ""
    text = getattr(fn, "__text_signature__", None)
    if text is None or not isinstance(text, str):
        text = str(inspect.signature(fn)).partition(" ->")[0]
    return re.sub(r"(?<=[\w)]): [^=,)]+(?= =)", "", text).replace(" = ", "=")


def cell(text):
    return text.replace("|", "\\|")


def table(rows, head):
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n\n"


def by_file():
    """File of `knet.ops` -> its public entries, in the order in which they are written."""
    owner = {}
    for file in TITLES:
        for entry in vars(import_module(f"knet.ops.{file}")).values():
            if isinstance(entry, Op):
                owner.setdefault(id(entry), file)  # later files may import it
    found = {file: [] for file in TITLES}
    file = None
    for entry in REGISTRY.values():  # entries of one file stand together; those made in a loop have no name there
        file = owner.get(id(entry), file) if isinstance(entry, Op) else entry.fn.__module__.rpartition(".")[2]
        if entry.public:
            found[file].append(entry)
    return found


def passes_gradients(entry):
    """An operation says so itself. A function or compound is asked: does any input of a sample get a gradient?"""
    if isinstance(entry, Op) and (entry.grad is not None or entry.kind != "Compound"):
        return entry.grad is not None
    rng = np.random.default_rng(0)
    return any(_moves(entry, s, [draw(rng, i) for i in s.inputs], rng) for s in entry.samples or USUAL)


# Calls that fit the functions whose entries have no samples; those that do not fit raise.
USUAL = (sample((4, 4)), sample((4, 4, 4), 2), sample(lambda rng: [rng.uniform(size=(4, 4)) for _ in range(2)]),
         sample("ij,jk", (4, 4), (4, 4)))


def draw(rng, x):
    return x(rng) if callable(x) else rng.uniform(0.3, 0.9, x) if isinstance(x, tuple) else x


def is_float(x):
    return getattr(getattr(x, "dtype", None), "kind", "") == "f"


def _moves(entry, s, inputs, rng):
    """Does a weighted sum of the results have a gradient that is not zero?"""
    taken = [x if isinstance(x, (list, tuple)) else [x] for x in inputs]

    def loss(parameters):
        new = iter(parameters)
        given = [[next(new) if is_float(x) else x for x in xs] for xs in taken]
        given = [xs if isinstance(x, (list, tuple)) else xs[0] for x, xs in zip(inputs, given)]
        results = entry.fn(*given, **s.attrs)
        results = results if isinstance(results, (tuple, list)) else [results]
        return sum(knet.sum(y * knet.array(rng.uniform(1, 2, y.shape))) for y in results if is_float(y))

    parameters = [x for xs in taken for x in xs if is_float(x)]
    try:
        return bool(parameters) and any(np.any(d) for d in knet.grad(loss)(parameters))
    except Exception:  # a call that does not fit
        return False


def row(entry):
    fn = getattr(knet, entry.name)
    shown = f"`{entry.name}{signature(fn)}`"
    if entry.aliases:
        shown += " also " + ", ".join(f"`{a}`" for a in entry.aliases)
    numpy = ", ".join(f"`{n}`" for n in dict.fromkeys(entry.numpy))
    kind = entry.kind.lower() if isinstance(entry, Op) else "function"
    return cell(shown), cell(first_sentence(fn.__doc__)), kind, numpy, "✓" if passes_gradients(entry) else ""


def listed(module, names):
    rows = []
    for name in names:
        thing = getattr(module, name)
        if callable(thing) and not thing.__doc__.startswith("What "):  # classes of results: made by functions only
            rows.append((cell(f"`{name}{signature(thing)}`"), cell(first_sentence(thing.__doc__))))
    return table(rows, ("name", "meaning"))


def methods():
    rows = []
    for name in sorted(n for n in dir(knet.KnetArray) if not n.startswith("_")):
        rows.append((f"`{name}`", cell(first_sentence(getattr(knet.KnetArray, name).__doc__))))
    return table(rows, ("name", "meaning"))


def settings():
    rows = [(f"`{name}`", first_sentence(setting.__doc__)) for name, setting in vars(type(knet.config)).items()
            if not name.startswith("_") and isinstance(getattr(setting, "__doc__", None), str)]
    return table(rows, ("name", "meaning"))


def text():
    parts = [INTRO]
    for title, module, names in OUTSIDE:
        parts.append(f"## {title}\n\n" + listed(import_module(module), names))
        if title == "Arrays":
            dtypes = ", ".join(f"`{name}`" for name in _core.dtypes() if name != "dtype")
            parts.append(ARRAYS.format(dtypes=dtypes) + methods())
        if title == "Looking inside":
            parts.append("### Settings: `knet.config`\n\n" + settings())
    for file, entries in by_file().items():
        parts.append(f"## {TITLES[file]}\n\n" + table([row(e) for e in entries], COLUMNS))
    for name in MODULES:
        module = import_module(f"knet.{name}")
        names = getattr(module, "__all__", None) or [
            n for n, x in vars(module).items() if inspect.isfunction(x) and not n.startswith("_")]
        parts.append(f"## `knet.{name}`\n\n{first_sentence(module.__doc__)}\n\n" + listed(module, names))
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(text())
