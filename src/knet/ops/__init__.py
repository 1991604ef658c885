"""The operations, one entry each, by kind. `REGISTRY` has them all, in order."""
from .define import ALIASES, REGISTRY, Attr, Function, Op, ops
# Each registers its entries.
from . import (elementwise, activations, special, reduce, shape, create, rearrange, index, linalg, conv, random,
               compound)
