"""NumPy's functions on KnetArrays (NEP 13 and NEP 18): recorded under the same name, or refused by name.

Nothing here converts a recorded value into a NumPy array: a function that has no counterpart raises TypeError.
"""
import functools
import inspect

from . import _core
from .ops.define import ALIASES, REGISTRY

# What a reduction of a ufunc is called on its own.
_REDUCE = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min",
           "logical_and": "all", "logical_or": "any"}
_ACCUMULATE = {"add": "cumsum", "multiply": "cumprod"}
# Arguments of NumPy's functions that choose how, not what: none of them is needed here when it has its default.
_DEFAULTS = {"out": (None,), "where": (True,), "subok": (True, False), "order": ("K", "C", None),
             "casting": ("same_kind",), "device": ("cpu",), "like": (None,), "signature": (None,), "sig": (None,), "extobj": (None,)}
# What chooses an algorithm or a place, of which there is one here; and NumPy's other names for arguments of ours.
_IDLE = {"optimize", "kind", "stable", "copy"}
_RENAMED = {"a_min": "min", "a_max": "max", "indices_or_sections": "sections", "correction": "ddof", "M": "m"}
# From the first of these on, NumPy's positional arguments are passed by name.
_BY_NAME = {"axis", "axes", "dtype", "out", "keepdims", "ddof", "initial", "order", "subok", "casting", "mode",
            "kind", "where"}


@functools.cache
def _counterparts():
    """NumPy's name -> our function, from the entries: their own names, aliases, and the names they say they serve."""
    import knet
    found = {}
    for name, entry in REGISTRY.items():
        fn = getattr(knet, name, None) if entry.public else None
        if fn is None:
            continue
        for numpy_name in (name, *entry.aliases, *entry.numpy):
            found.setdefault(numpy_name, fn)
    for alias, name in ALIASES.items():
        if name in found:
            found.setdefault(alias, found[name])
    return found


# Questions about an array that need none of its elements.
_FACTS = {
    "shape": lambda a: a.shape,
    "ndim": lambda a: a.ndim,
    "size": lambda a, axis=None: a.size if axis is None else a.shape[axis],
    "real": lambda val: val,
    "iscomplexobj": lambda x: False,
    "isrealobj": lambda x: True,
    "array_repr": lambda arr, *a, **k: repr(arr),
    "array_str": lambda a, *rest, **k: str(a),
    "array2string": lambda a, *rest, **k: str(a),
}


def _result_type(*xs):
    import numpy
    return numpy.result_type(*(numpy.dtype(x.dtype) if isinstance(x, _core.KnetArray) else x for x in xs))


_FACTS["result_type"] = _result_type


def _compared(name):
    """array_equal, allclose: the answer is a Python bool, and reads values on purpose."""
    def compare(a, b, *args, **kwargs):
        import numpy
        a, b = (numpy.asarray(x._memory()) if isinstance(x, _core.KnetArray) else x for x in (a, b))
        return getattr(numpy, name)(a, b, *args, **kwargs)
    return compare


_FACTS.update({name: _compared(name) for name in ("array_equal", "array_equiv", "allclose")})


def _saved(name):
    """np.save and its kin write numbers to a file; what is being differentiated is refused, as everywhere."""
    def save(*args, **kwargs):
        import numpy
        plain = [numpy.asarray(x) if isinstance(x, _core.KnetArray) else x for x in args]
        named = {k: numpy.asarray(x) if isinstance(x, _core.KnetArray) else x for k, x in kwargs.items()}
        return getattr(numpy, name)(*plain, **named)
    return save


_FACTS.update({name: _saved(name) for name in ("save", "savez", "savez_compressed", "savetxt")})


def _none(name):
    return TypeError(f"[numpy] numpy.{name} has no counterpart for KnetArray, and a value is never converted silently. "
                     "Use knet's functions, or x.numpy() to compute with the numbers outside of the gradient.")


def _plain(name, kwargs):
    """Keyword arguments without those that say nothing; the dtype apart."""
    import numpy
    left, dtype = {}, kwargs.get("dtype")
    for key, value in kwargs.items():
        if value is numpy._NoValue or key == "dtype" or key in _IDLE:
            continue
        if key == "out" and any(v is not None for v in (value if isinstance(value, tuple) else (value,))):
            raise TypeError(f"[numpy] numpy.{name} cannot write the result into an existing array (out=, or `a += x` "
                            "with a NumPy array a): it is recorded, not computed. Use a = a + x.")
        defaults = _DEFAULTS.get(key, ())
        if key == "out" or any(value is d or isinstance(d, str) and value == d for d in defaults):
            continue
        left[_RENAMED.get(key, key)] = value
    return left, dtype


def _call(name, fn, args, kwargs):
    kwargs, dtype = _plain(name, kwargs)
    y = fn(*args, **kwargs)
    return y if dtype is None else y.astype(dtype)


_called = {}  # ufunc -> our function, once it has been looked up


def array_ufunc(self, ufunc, method, *inputs, **kwargs):
    """A ufunc on operands of which one is a KnetArray: `np.tanh(x)`, `ndarray + x`, `np.add.reduce(x)`."""
    if method == "__call__" and not kwargs and ufunc in _called:
        return _called[ufunc](*inputs)
    name = ufunc.__name__
    if method == "__call__" and name == "conjugate":
        return +inputs[0]
    if method == "__call__":
        fn = _counterparts().get(name)
        if fn is None:
            raise _none(name)
        _called[ufunc] = fn
        return _call(name, fn, inputs, kwargs)
    if method == "reduce" and name in _REDUCE:
        kwargs.setdefault("axis", 0)
        return _call(f"{name}.reduce", _counterparts()[_REDUCE[name]], inputs, kwargs)
    if method == "accumulate" and name in _ACCUMULATE:
        kwargs.setdefault("axis", 0)
        return _call(f"{name}.accumulate", _counterparts()[_ACCUMULATE[name]], inputs, kwargs)
    if method == "outer" and name in _counterparts():
        a, b = (x if isinstance(x, _core.KnetArray) else _core.array(x) for x in inputs)
        return _call(f"{name}.outer", _counterparts()[name], (a.reshape(a.shape + (1,) * b.ndim), b), kwargs)
    raise _none(f"{name}.{method}")


@functools.cache
def _signature(func):
    try:
        return tuple(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):
        return ()


def array_function(self, func, types, args, kwargs):
    """Any other function of NumPy that was called with a KnetArray somewhere in its arguments."""
    name = func.__name__
    module = getattr(func, "__module__", "") or ""
    full = f"{module.removeprefix('numpy').lstrip('.')}.{name}".lstrip(".")
    if module not in ("numpy", "numpy.linalg"):
        raise _none(full)
    if module == "numpy" and name in _FACTS:
        return _FACTS[name](*args, **kwargs)
    fn = _counterparts().get(full) or _counterparts().get(name)
    if fn is None:
        raise _none(full)
    # NumPy's signature says which positional arguments are options; ours may have them at other positions.
    parameters = _signature(func)
    options = dict(kwargs)
    for i, (parameter, value) in enumerate(zip(parameters, args)):
        if parameter.kind is parameter.VAR_POSITIONAL:
            break
        if parameter.name in _BY_NAME and i > 0:
            options.update(zip((p.name for p in parameters[i:]), args[i:]))
            args = args[:i]
            break
    # Arrays that were passed by NumPy's names for them go by position: np.sum(a=x).
    if not args and parameters and parameters[0].name in options:
        args = (options.pop(parameters[0].name),)
    return _call(full, fn, args, options)
