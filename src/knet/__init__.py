"""Deep learning in plain Python: a model is a function, and `grad(f)` is the only thing it needs."""
from . import _bind, _core
from ._core import KnetArray

globals().update(_bind.public_names())
from ._core import array, from_dlpack  # noqa: E402  (after the operations: these are the constructors)
from .grad import Primitive, grad, gradcheck, gradloss, primitive, value, value_and_grad  # noqa: E402
from .inspect import config, explain, memory, trim  # noqa: E402

globals().update(_core.dtypes())
__version__ = "0.1.0"
_lazy = {"data", "train", "optim", "init", "tree"}
_initialisers = {"xavier", "xavier_uniform", "xavier_normal", "gaussian", "bilinear"}


def __getattr__(name):
    """Modules and names that `import knet` does not need at once."""
    from importlib import import_module
    if name in _lazy:
        return import_module(f".{name}", __name__)
    if name in _initialisers:
        return getattr(import_module(".init", __name__), name)
    raise AttributeError(f"module 'knet' has no attribute {name!r}")
