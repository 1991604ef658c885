"""The operations, one entry each, by kind. `REGISTRY` has them all, in order."""
from .define import ALIASES, REGISTRY, Attr, Function, Op, ops
from . import elementwise, reduce, shape, create, rearrange, index, linalg, conv, random, compound  # each registers its entries
