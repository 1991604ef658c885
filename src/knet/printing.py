"""How a KnetArray is shown: `KnetArray([[1., 2.], [3., 4.]], shape=(2, 2), dtype=float32, cpu)`.

Only what is shown is turned into Python numbers: the ends of long axes, with dots between. NumPy is not needed.
"""
import math
from itertools import chain

EDGE = 3          # elements shown at each end of an axis that is cut
THRESHOLD = 200   # arrays with more elements are cut
DIGITS = 8        # significant digits at most; float32 has about 7
WIDTH = 100       # characters a line
LINES = 40        # lines at most


def repr_array(x):
    body = _body(x, len("KnetArray("))
    return f"KnetArray({body}, shape={x.shape}, dtype={x.dtype}, {x.device})"


def str_array(x):
    return _body(x, 0)


def format_array(x, spec):
    """`f"{x:.3f}"` formats the number of a one-element array, as it would the number itself."""
    if not spec:
        return str_array(x)
    if x.size == 1:
        return format(x.item(), spec)
    raise TypeError(f"[format] an array of shape {x.shape} cannot be formatted with {spec!r}. "
                    "Use str(x), or format one element: x[0].")


def _body(x, indent):
    shape = x.shape
    memory = x._memory()
    if 0 in shape:
        return "[]" if len(shape) == 1 else f"[] of shape {shape}"
    if not shape:
        return _formatter([memory[()]], x.dtype.kind, x.dtype.itemsize)(memory[()])
    flat_memory = memory.cast("B").cast(memory.format)
    edges = [max(shape)] * len(shape) if x.size <= THRESHOLD and _few_lines(shape) else _edges(shape)
    nested = _shown(flat_memory, shape, 0, edges)
    flat = list(_flat(nested, len(shape)))
    form = _formatter(flat, x.dtype.kind, x.dtype.itemsize)
    width = max(len(form(v)) for v in flat)
    return _lines(nested, len(shape), lambda v: form(v).rjust(width), indent)


def _few_lines(shape):
    return math.prod(shape[:-1]) <= LINES // max(len(shape) - 2, 1)


def _edges(shape):
    """How many elements are shown at each end of each axis; 0: the first one alone. Outer axes give way first."""
    edges = [EDGE] * len(shape)
    most = LINES // max(len(shape) - 2, 1)  # blocks of high rank stand apart
    for fewer in (1, 0):
        for axis in range(len(shape) - 1):
            if math.prod(min(n, 2 * e or 1) for n, e in zip(shape[:-1], edges)) > most:
                edges[axis] = fewer
    return edges


def _shown(memory, shape, start, edges):
    """Nested lists of the numbers that are shown; None stands for what is left out."""
    n, inner, edge = shape[0], shape[1:], edges[0]
    step = math.prod(inner)
    at = chain(range(edge or 1), [None], range(n - edge, n)) if n > max(2 * edge, 1) else range(n)
    if not inner:
        return [None if i is None else memory[start + i] for i in at]
    return [None if i is None else _shown(memory, inner, start + i * step, edges[1:]) for i in at]


def _flat(nested, depth):
    for part in nested:
        if part is not None:
            yield from _flat(part, depth - 1) if depth > 1 else (part,)


def _formatter(values, kind, itemsize):
    """One way to write all these numbers, so that columns line up and no digit that matters is lost."""
    if kind != "f":
        return str
    digits = DIGITS if itemsize > 4 else DIGITS - 1
    finite = [abs(v) for v in values if v == v and abs(v) != float("inf")]
    nonzero = [v for v in finite if v]
    least, most = (min(nonzero), max(nonzero)) if nonzero else (1, 1)
    if most >= 1e8 or least < 1e-4 or most / least > 1e4 and least < 1e-2:
        places = max(_places(f"{v:.{digits - 1}e}".split("e")[0]) for v in nonzero)
        return lambda v: f"{v:.{places}e}"
    room = max(digits - len(str(int(most))), 0)
    places = max((_places(f"{v:.{room}f}") for v in finite), default=0)

    def form(v):
        text = f"{v:.{places}f}"
        return text if places or v != v or abs(v) == float("inf") else text + "."
    return form


def _places(text):
    return len(text.rstrip("0").partition(".")[2])


def _lines(nested, depth, form, indent):
    if depth == 1:
        words = ["..." if v is None else form(v) for v in nested]
        lines, line = [], ""
        for i, word in enumerate(words):
            word += "," if i + 1 < len(words) else ""
            if line and indent + 1 + len(line) + 1 + len(word) > WIDTH:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        return "[" + ("\n" + " " * (indent + 1)).join([*lines, line]) + "]"
    parts = ["..." if part is None else _lines(part, depth - 1, form, indent + 1) for part in nested]
    gap = "," + "\n" * (depth - 1) + " " * (indent + 1)
    if depth == 2 and sum(map(len, parts)) + indent + 2 * len(parts) < WIDTH and "\n" not in "".join(parts):
        gap = ", "
    return "[" + gap.join(parts) + "]"
