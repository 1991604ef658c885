"""Gives every entry of `ops` its native recording function, and the engine its derivative rules."""
import os

from . import _core
from . import ops as _ops  # declares all entries
from .ops.define import ALIASES, REGISTRY, Op, decode, derive, engine, expand

for _entry in REGISTRY.values():
    if isinstance(_entry, Op) and (_entry.kind != "Meta" or _entry.name == "alias"):
        _entry.fn = _core.OpFunction(_entry.name, _entry.inputs, _entry.defaults, _entry.attrs, _entry.doc)


def _derive(name, words, dys, ys, xs, needs):
    op = REGISTRY[name]
    return derive(op, dys, ys, xs, decode(op, words), needs)


def _expand(name, words, xs):
    op = REGISTRY[name]
    return expand(op, xs, decode(op, words))


_core.set_rules(_derive, _expand)
engine.depth = _core.depth
engine.default_dtype = _core.default_dtype
_core.set_package(os.path.dirname(os.path.abspath(__file__)) + os.sep)


def public_names():
    """All public operations and functions: name -> callable."""
    names = {name: getattr(entry, "face", None) or entry.fn for name, entry in REGISTRY.items()
             if entry.public and entry.fn is not None}
    names.update({alias: names[name] for alias, name in ALIASES.items() if name in names})
    return names
