"""The operations, one entry each, by kind. `REGISTRY` has them all, in order."""
from importlib import import_module
from importlib.util import find_spec

from .define import ALIASES, REGISTRY, Attr, Function, Op, ops

for _file in ("elementwise", "reduce", "shape", "index", "linalg", "conv", "random", "compound"):
    if find_spec(f"{__name__}.{_file}"):
        import_module(f"{__name__}.{_file}")
