"""What an operation is: one entry, from which everything else is derived.

An entry states the name and inputs, the rule for shapes and types (by kind), the scalar C expression of an elementwise
operation, the derivative, the NumPy reference and where to test it. From it come the kernel tables (generate.py), the
public function, NumPy's dispatch, the documentation and the tests. To add an operation is to add an entry:

    softplus = elementwise(
        "softplus", "x", rule="Float",
        c="vm::max(a, T(0)) + vm::log1p(vm::exp(-vm::abs(a)))",
        grad=(lambda dy, y, x: dy * sigm(x),),
        reference=lambda x: np.logaddexp(0, x),
        doc="The smooth relu, log(1 + exp(x)).")

There are four ways to make one:

- `elementwise`: one result element for each (broadcast) input element; has a C expression.
- `primitive`:   any other operation that a device implements.
- `compound`:    written with other operations (`expand`), but kept whole while recording; worth it when its derivative
                 is better than that of its expansion, or when it is called often.
- `@function`:   a plain Python function of operations, registered as a public name.

Signatures are written as in Python. A bare name is an array input (`alpha=1.0`: an input with a default number, which
is a value like any other: changing it makes no new plan); a name with a kind is an attribute, part of the structure:

    "x, axis: axes = None, keepdims: bool = False"       "*xs, axis: axis = 0"

Derivative rules are `(dy, y, *inputs, **attributes) -> gradient of the input`, one for each input (None where the
derivative is zero or there is none), written with operations and Python operators. Or one function for all inputs,
returning a list; if the operation has several results, its dy and y are tuples. Rules are pure and local: they run once
per signature, never see values, and do not sum over broadcast axes or accumulate. Rules of elementwise operations use
elementwise operations only and never look at shapes; all others return a gradient of the shape of the input.
An operation without `grad` passes no gradient (its derivative is zero almost everywhere, or it is not of floats),
except a compound, whose expansion is differentiated.

Entries of other files are reached through `ops` (`ops.reshape(x, s)`), so that files of entries import only this one.
"""
from collections import namedtuple

KINDS = ("Meta", "Elementwise", "Reduce", "Movement", "Contraction", "Index", "Create", "Random", "Other", "Compound")
RULES = ("Same", "Float", "Compare", "Logical", "IntBits", "FloatTest", "Where", "None")
ATTR_KINDS = {
    "int": "an integer",
    "bool": "True or False",
    "ints": "a tuple of integers",
    "axis": "an axis; negative counts from the end; None flattens the first input",
    "axes": "an axis or a tuple of axes; None means all",
    "shape": "a tuple of extents",
    "dtype": "an element type; None lets the operation choose",
}
# Element types in the order of the engine's enum (native/types.h): attributes of kind dtype are encoded by position.
DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "bfloat16", "float32", "float64", "complex64", "complex128")

Attr = namedtuple("Attr", "name kind default")
Sample = namedtuple("Sample", "inputs attrs")
REQUIRED = type("Required", (), {"__repr__": lambda self: "REQUIRED", "__slots__": ()})()

REGISTRY = {}  # name -> Op or Function, in the order of definition
ALIASES = {}   # other public names -> name


def sample(*inputs, **attrs):
    """A call to test: each input is a shape (filled with random numbers of the entry's domain), a function of a
    `numpy.random.Generator` that returns an array, or a number."""
    return Sample(inputs, attrs)


class _Lazy:
    """A module that is imported when it is first used: references need NumPy, `import knet` must not."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        module = __import__(self._name)
        for part in self._name.split(".")[1:]:
            module = getattr(module, part)
        return getattr(module, attribute)


np = _Lazy("numpy")


class _Entry:
    """What operations and functions have in common: a public name, words about it, and how to test it."""

    __slots__ = ()

    def _describe(self, name, aliases, reference, numpy, samples, doc):
        self.name = name
        self.aliases = tuple(aliases)
        self.doc = doc
        self.samples = tuple(samples)
        if callable(reference):
            self.reference, self.numpy = reference, tuple(numpy)
        elif reference is None:
            self.reference, self.numpy = None, tuple(numpy)
        else:  # the name of NumPy's function of the same meaning
            self.numpy = (reference, *numpy)
            self.reference = lambda *xs, **attrs: getattr(np, reference)(*xs, **attrs)
        for n in (name, *self.aliases):
            if n in REGISTRY or n in ALIASES:
                raise ValueError(f"[define] there are two entries with the name {n}")
        REGISTRY[name] = self
        ALIASES.update(dict.fromkeys(self.aliases, name))


class Op(_Entry):
    """An operation of the engine.

    name       unique; also the public name, and the enumerator in C++
    aliases    further public names
    kind       one of KINDS
    inputs     names of array inputs; the last may be "*xs": any number
    defaults   input name -> Python number used when the input is left out
    attrs      tuple of Attr(name, kind, default), in the order in which they are encoded
    n_out      number of results
    rule       how types are chosen (native/trace/op.h: DTypeRule)
    c, c_int, c_bool   C expressions for float, integer and bool elements; "" where there is none
    grad       derivative rules (see above), or None
    expand     compound only: the operation in terms of others
    reference  the same on NumPy arrays, exact to rounding; what tests compare with
    numpy      names of NumPy functions that this operation serves when they are called on our arrays
    domain     for each input, intervals in which tests draw floats: inside the domain of definition, away from kinks
    ints       for each input, the interval in which tests draw integers
    samples    calls to test (not needed for elementwise operations)
    public     whether it is a `knet.<name>` (else it is used by other entries and by the array's methods)
    face       what users get under that name, where NumPy's conventions need more than `fn` (see `face`); or None
    """

    __slots__ = ("name", "aliases", "kind", "inputs", "defaults", "attrs", "n_out", "rule", "c", "c_int", "c_bool",
                 "commutative", "grad", "expand", "reference", "numpy", "domain", "ints", "samples", "doc", "public",
                 "fn", "face")

    def __init__(self, name, signature, kind, *, n_out=1, rule="None", c="", c_int="", c_bool="", commutative=False,
                 grad=None, expand=None, reference=None, numpy=(), domain=(-2.0, 2.0), ints=(-9, 9), samples=(),
                 aliases=(), doc="", public=True):
        self.kind = kind
        self.inputs, self.defaults, self.attrs = _parse(signature)
        self.n_out = n_out
        self.rule = rule
        self.c, self.c_int, self.c_bool = c, c_int, c_bool
        self.commutative = commutative
        self.grad = grad
        self.expand = expand
        self.domain = _intervals(domain, len(self.inputs))
        self.ints = _intervals(ints, len(self.inputs))
        self.public = public
        self.fn = None  # the recording function of the native module, set when the package is imported
        self.face = None
        self._describe(name, aliases, reference, numpy, samples, doc)
        if kind not in KINDS or rule not in RULES:
            raise ValueError(f"[define] {name}: no kind {kind} or no rule {rule}")
        if (kind == "Compound") != (expand is not None):
            raise ValueError(f"[define] {name}: compounds have an expansion, and only they")
        if isinstance(grad, tuple) and len(grad) != len(self.inputs):
            raise ValueError(f"[define] {name}: {len(grad)} derivative rules for {len(self.inputs)} inputs")

    def __call__(self, *xs, **attrs):
        return self.fn(*xs, **attrs)

    def __repr__(self):
        return f"<op {self.name}>"

    @property
    def variadic(self):
        return bool(self.inputs) and self.inputs[-1][0] == "*"

    @property
    def n_in(self):
        """Number of array inputs; a minimum if `variadic`."""
        return len(self.inputs) - self.variadic

    @property
    def flags(self):
        """Names of the engine's OpFlags that hold."""
        flags = {
            "kDifferentiable": self.grad is not None,
            "kVariadic": self.variadic,
            "kBoolOk": self.rule in ("Same", "IntBits") and bool(self.c_bool),
            "kCommutative": self.commutative,
        }
        return tuple(f for f, holds in flags.items() if holds)


class Function(_Entry):
    """A public function written in Python with operations; `fn` is the function itself."""

    __slots__ = ("name", "aliases", "reference", "numpy", "samples", "domain", "doc", "public", "fn")

    def __init__(self, fn, reference, numpy, samples, domain, aliases, public):
        self.fn = fn
        self.domain = domain
        self.public = public
        self._describe(fn.__name__, aliases, reference, numpy, samples, fn.__doc__ or "")

    def __call__(self, *xs, **attrs):
        return self.fn(*xs, **attrs)

    def __repr__(self):
        return f"<function {self.name}>"


def elementwise(name, signature, *, rule="Same", c="", c_int=None, c_bool=None, **more):
    """Declare an elementwise operation. Unless they are given, integers use the same C expression as floats where the
    rule lets them in (Same, Compare, Where), and so does bool for Compare and Where."""
    if c_int is None:
        c_int = c if rule in ("Same", "Compare", "Where") else ""
    if c_bool is None:
        c_bool = c if rule in ("Compare", "Where") else ""
    return Op(name, signature, "Elementwise", rule=rule, c=c, c_int=c_int, c_bool=c_bool, **more)


def primitive(name, signature, kind, **more):
    """Declare an operation that devices implement with a kernel of its own."""
    return Op(name, signature, kind, **more)


def compound(name, signature, *, expand, **more):
    """Declare an operation that is written in terms of others; `expand(*inputs, **attributes)` returns its result
    (a tuple if there are several)."""
    return Op(name, signature, "Compound", expand=expand, **more)


def function(*, reference=None, numpy=(), samples=(), domain=(-2.0, 2.0), aliases=(), public=True):
    """Decorator: register a Python function of operations as a public name. The function itself is returned."""
    def register(fn):
        Function(fn, reference, numpy, samples, domain, aliases, public)
        return fn
    return register


def face(op):
    """Decorator: the function is what users (and NumPy's dispatch) call under the name of the operation `op`: it takes
    what NumPy's function takes (a sequence of arrays, operands of one dimension or of several types, a default order).
    Entries and rules go on calling `op` itself."""
    def register(fn):
        op.face = fn
        return fn
    return register


class _Ops:
    """All entries by name: `ops.matmul`, wherever it is declared. Functions come as they were written."""

    def __getattr__(self, name):
        try:
            entry = REGISTRY[ALIASES.get(name, name)]
        except KeyError:
            raise AttributeError(f"there is no operation {name}") from None
        value = entry if isinstance(entry, Op) else entry.fn
        setattr(self, name, value)
        return value


ops = _Ops()


class engine:
    """What functions may ask of the engine. Set when the package is imported; until then, the answers of no engine."""

    depth = staticmethod(lambda: 0)  # how many differentiated calls are open
    default_dtype = staticmethod(lambda: "float32")  # the type of Python floats and of arrays made from nothing


def as_array(x):
    """x as something with a shape and a type: arrays as they are, numbers and lists recorded."""
    return x if hasattr(x, "shape") else ops.alias(x)


# ---- what the engine asks when it turns a rule or an expansion into a template

def derive(op, dys, ys, xs, attrs, needs):
    """Gradients of the inputs `xs` of `op`, one for each: None where there is none or `needs` is false.

    `dys`, `ys` are sequences over results (a dy may be None: nothing depends on that result), `attrs` is a dictionary.
    """
    rule = op.grad
    if rule is None:
        return [None] * len(xs)
    dy, y = (dys[0], ys[0]) if op.n_out == 1 else (tuple(dys), tuple(ys))
    if not isinstance(rule, tuple):
        return [g if need else None for g, need in zip(rule(dy, y, *xs, **attrs), needs, strict=True)]
    return [r(dy, y, *xs, **attrs) if need and r is not None else None for r, need in zip(rule, needs, strict=True)]


def expand(op, xs, attrs):
    """Results of the compound `op`, as a list."""
    y = op.expand(*xs, **attrs)
    return list(y) if isinstance(y, tuple) else [y]


def encode(op, attrs):
    """Attributes as the engine keeps them: a list of integers. Values must be normalised (no None but for a dtype)."""
    words = []
    for attr in op.attrs:
        value = attrs.get(attr.name, attr.default)
        if attr.kind == "dtype":
            words.append(-1 if value is None else DTYPES.index(str(value)))
        elif attr.kind in ("int", "bool", "axis"):
            words.append(int(value))
        else:
            words += [len(value), *map(int, value)]
    return words


def decode(op, words):
    """The dictionary of attributes that `encode` wrote."""
    attrs, at = {}, 0
    for attr in op.attrs:
        word = words[at]
        at += 1
        if attr.kind == "dtype":
            value = None if word < 0 else DTYPES[word]
        elif attr.kind == "bool":
            value = bool(word)
        elif attr.kind in ("int", "axis"):
            value = word
        else:
            value = tuple(words[at:at + word])
            at += word
        attrs[attr.name] = value
    return attrs


# ---- reading declarations

_CONSTANTS = {"None": None, "True": True, "False": False}


def _parse(signature):
    inputs, defaults, attrs = [], {}, []
    for parameter in _split(signature):
        parameter, _, default = map(str.strip, parameter.partition("="))
        name, _, kind = map(str.strip, parameter.partition(":"))
        if not kind:
            inputs.append(name)
            if default:
                defaults[name] = _literal(default)
        elif kind in ATTR_KINDS:
            attrs.append(Attr(name, kind, _literal(default) if default else REQUIRED))
        else:
            raise ValueError(f"[define] no kind of attribute {kind} in: {signature}")
    return tuple(inputs), defaults, tuple(attrs)


def _split(text):
    """The parts between commas that are not in parentheses."""
    parts = []
    for piece in text.split(","):
        if parts and parts[-1].count("(") > parts[-1].count(")"):
            parts[-1] += "," + piece
        elif piece.strip():
            parts.append(piece)
    return parts


def _literal(text):
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] == "(":
        return tuple(_literal(t.strip()) for t in text[1:-1].split(",") if t.strip())
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _intervals(domain, n):
    """(lo, hi) for all inputs, or one item an input: (lo, hi) or a list of such. Returns a tuple of tuples of pairs."""
    items = (domain,) * n if isinstance(domain, tuple) and not isinstance(domain[0], (tuple, list)) else domain
    return tuple(tuple(map(tuple, i)) if isinstance(i, list) else (tuple(i),) for i in items)


# ---- bookkeeping of the trace: no kernels, nothing public

for _name, _signature, _grad in (
        ("leaf", "", None),                       # an array that exists
        ("scalar", "", None),                     # a Python number: data, bound at each run
        ("constant", "dtype: int, bits: int", None),   # a structural number
        ("param", "x", (lambda dy, y, x: dy,)),   # marks a leaf of a gradient
        ("alias", "x", (lambda dy, y, x: dy,)),
        ("stop", "x", None),                      # identity through which no gradient passes
        ("grad", "loss, *wrt", None),             # gradients of loss, one result for each of wrt
        ("custom", "y, *xs, rule: int", None)):   # y with a user's derivative with respect to xs
    Op(_name, _signature, "Meta", grad=_grad, public=False)
