"""Containers of parameters: any nest of list, tuple, namedtuple, dict and dataclass of arrays and numbers."""
from ._core import KnetArray


def is_array(x):
    """Is `x` a leaf that holds numbers: a KnetArray, a NumPy array or NumPy scalar?"""
    return type(x) is KnetArray or hasattr(x, "__array_interface__")


def flatten(x, op="tree"):
    """The leaves of `x` in order, their paths, and a function that makes the same nest of other leaves.

    Leaves are arrays and Python numbers; None stands for nothing and stays where it is. Dicts keep their order.
    Raises TypeError, naming `op` and the path, for anything else.

    >>> leaves, paths, rebuild = flatten({"w": 1.0, "b": [2.0, 3.0]})
    >>> rebuild([x * 10 for x in leaves])
    {'w': 10.0, 'b': [20.0, 30.0]}
    """
    leaves, paths = [], []
    if type(x) is list and all(type(v) is KnetArray for v in x):  # the usual case, fast
        return list(x), [f"[{i}]" for i in range(len(x))], list
    build = _walk(x, "", leaves, paths, op, set())

    def rebuild(new):
        return build(iter(new))

    return leaves, paths, rebuild


def map(f, x, *rest):
    """Apply `f` to each leaf of `x` (and the leaves at the same places of `rest`); the result has the nest of `x`.

    >>> map(lambda a, b: a + b, [1.0, (2.0,)], [10.0, (20.0,)])
    [11.0, (22.0,)]
    """
    leaves, _, rebuild = flatten(x, "tree.map")
    others = [flatten(r, "tree.map")[0] for r in rest]
    for o in others:
        if len(o) != len(leaves):
            raise ValueError(f"[tree.map] the nests differ: {len(leaves)} leaves and {len(o)}. "
                             "Pass nests of one structure.")
    return rebuild([f(*xs) for xs in zip(leaves, *others)])


def leaves(x):
    """The leaves of a nest, in order."""
    return flatten(x, "tree.leaves")[0]


def _walk(x, path, leaves, paths, op, open_ids):
    if x is None:
        return lambda new: None
    if type(x) is KnetArray or isinstance(x, (int, float)) or is_array(x):
        leaves.append(x)
        paths.append(path)
        return next
    if id(x) in open_ids:
        raise ValueError(f"[{op}] the container at {path or 'the top'} contains itself. Pass a nest without cycles.")
    open_ids.add(id(x))
    try:
        if isinstance(x, (list, tuple)):
            parts = [_walk(v, f"{path}[{i}]", leaves, paths, op, open_ids) for i, v in enumerate(x)]
            if hasattr(x, "_fields"):
                return lambda new: type(x)(*[p(new) for p in parts])
            kind = type(x)
            return lambda new: kind([p(new) for p in parts])
        if isinstance(x, dict):
            parts = {k: _walk(v, f"{path}[{k!r}]", leaves, paths, op, open_ids) for k, v in x.items()}

            def build_dict(new):
                items = {k: p(new) for k, p in parts.items()}
                if type(x) is dict:
                    return items
                same = x.copy()
                same.update(items)
                return same

            return build_dict
        if hasattr(type(x), "__dataclass_fields__"):
            import dataclasses  # here, since it takes longer to import than we do; now somebody has
            names = [f.name for f in dataclasses.fields(x)]
            parts = {n: _walk(getattr(x, n), f"{path}.{n}", leaves, paths, op, open_ids) for n in names}

            def build_dataclass(new):
                same = object.__new__(type(x))  # not through __init__: fields may be init=False or checked
                for n, p in parts.items():
                    object.__setattr__(same, n, p(new))
                return same

            return build_dataclass
    finally:
        open_ids.discard(id(x))
    where = f" at {path}" if path else ""
    raise TypeError(
        f"[{op}] {type(x).__name__}{where} is not a parameter. Parameters are arrays and numbers in any nest of "
        f"list, tuple, dict and dataclass.")
