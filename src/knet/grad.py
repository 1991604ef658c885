"""Differentiation: `grad` of a plain function, and what goes with it."""
import functools
import operator

from . import _core, tree
from ._core import KnetArray


def grad(f, argnum=0, has_aux=False):
    """The gradient of a function: `grad(f)(w, ...)` is df/dw, where `f(w, ...)` returns a scalar.

    f        any Python function of arrays and numbers that returns a 0-d value (or a number)
    argnum   which positional argument to differentiate with respect to; a tuple for several
    has_aux  f returns (loss, aux); the gradient function returns (gradient, aux)

    The argument may be any nest of list, tuple, namedtuple, dict and dataclass of KnetArrays, NumPy arrays and Python
    numbers (an integer counts as a float). The gradient has the same nest; each leaf has the type, shape and dtype of
    its parameter, and is zero where the loss does not depend on it. Works to any order.

    Raises TypeError for results that are not scalars, for integer arrays and for unknown containers.

    >>> grad(lambda w, x: (w[0] * x + w[1]) ** 2)([2.0, 1], 3.0)
    [42.0, 14.0]
    """
    _check_function(f, "grad")
    wrt = _positions(argnum, "grad")

    @functools.wraps(f)
    def gradient(*args, **kwargs):
        d, _, aux = _differentiate(f, wrt, has_aux, args, kwargs, "grad")
        return (d, aux) if has_aux else d

    return gradient


def gradloss(f, argnum=0, has_aux=False):
    """Like `grad`, but returns the pair (gradient, value), the gradient first.

    With `has_aux`: (gradient, (value, aux)).

    >>> gradloss(lambda x: x * x)(3.0)
    (6.0, 9.0)
    """
    _check_function(f, "gradloss")
    wrt = _positions(argnum, "gradloss")

    @functools.wraps(f)
    def gradient_and_value(*args, **kwargs):
        d, value, aux = _differentiate(f, wrt, has_aux, args, kwargs, "gradloss")
        return (d, (value, aux)) if has_aux else (d, value)

    return gradient_and_value


def value_and_grad(f, argnum=0, has_aux=False):
    """Like `grad`, but returns the pair (value, gradient), the value first.

    With `has_aux`: ((value, aux), gradient).

    >>> value_and_grad(lambda x: x * x)(3.0)
    (9.0, 6.0)
    """
    _check_function(f, "value_and_grad")
    wrt = _positions(argnum, "value_and_grad")

    @functools.wraps(f)
    def value_and_gradient(*args, **kwargs):
        d, value, aux = _differentiate(f, wrt, has_aux, args, kwargs, "value_and_grad")
        return ((value, aux), d) if has_aux else (value, d)

    return value_and_gradient


def value(x):
    """The value of `x` as a constant: no gradient flows through it.

    Of a list, tuple, dict or dataclass, the same nest of constants; plain values are returned as they are.

    >>> grad(lambda x: x * value(x))(3.0)
    3.0
    """
    if isinstance(x, (list, tuple, dict)) or hasattr(type(x), "__dataclass_fields__"):
        leaves, _, rebuild = tree.flatten(x, "value")
        return rebuild([_constant(v) for v in leaves])
    return _constant(x)


def _constant(x):
    return _core.stop(x) if _core.tracked(x) else x


def _check_function(f, op):
    if not callable(f):
        raise TypeError(f"[{op}] {type(f).__name__} is not a function. Pass the function and call the result: "
                        f"{op}(f)(w, x), not {op}(f(w, x)).")


def _positions(argnum, op):
    """The position of the argument to differentiate, or a tuple of positions."""
    try:
        if isinstance(argnum, (tuple, list)):
            return tuple(map(operator.index, argnum))
        return operator.index(argnum)
    except TypeError:
        raise TypeError(f"[{op}] argnum is {argnum!r}. Give the position of the argument, an integer, or a tuple of "
                        f"positions.") from None


def _differentiate(f, wrt, has_aux, args, kwargs, op):
    several = type(wrt) is tuple
    try:
        target = [*map(args.__getitem__, wrt)] if several else args[wrt]
    except IndexError:
        last = max(wrt, key=abs) if several else wrt
        raise TypeError(f"[{op}] argument {last} is to be differentiated, but the call has {len(args)} positional "
                        f"arguments. Pass it by position.") from None

    inner = _core.enter(target)  # the parameters for a list of float arrays, the usual case; else None
    try:
        usual = inner is not None
        if usual:
            leaves, rebuild = target.copy(), None
        else:
            leaves, paths, rebuild = tree.flatten(target, op)
            inner = rebuild(_parameters(leaves, paths, op))
        loss, aux = _core.call_with(f, args, kwargs, wrt, inner), None
        if has_aux:
            loss, aux = _split(loss, op)
        gradients = _core.gradient(loss)
        if gradients is None:
            _check_loss(loss, op)
        inner = None  # what nobody holds is not computed
        if op == "grad":
            loss = None
    finally:
        nested = _core.leave()  # the outermost one computes everything that is pending

    if gradients is None:
        gradients = _zeros(leaves, nested)
    elif not usual and not nested and not _core.planning_only():
        gradients, loss = _as_given(gradients, loss, leaves)
    if rebuild is not None:
        gradients = rebuild(gradients)
    return tuple(gradients) if several else gradients, loss, aux


def _parameters(leaves, paths, op):
    return [_parameter(x, path, op) for x, path in zip(leaves, paths)]


def _parameter(x, path, op):
    if type(x) is KnetArray and x.dtype.kind == "f":
        return _core.parameter(x)
    where = f" at {path}" if path else ""
    if isinstance(x, bool):
        raise TypeError(f"[{op}] the parameter{where} is a bool. Parameters are floats; pass it as another argument.")
    if isinstance(x, (int, float)) and not hasattr(x, "dtype"):
        return _core.parameter(float(x))
    if x.dtype.kind not in "f":
        raise TypeError(f"[{op}] the parameter{where} is {x.dtype}{tuple(x.shape)}: only floats have gradients. "
                        f"Convert it with .astype('float32'), or pass it as another argument.")
    return _core.parameter(x)


def _split(result, op):
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"[{op}] with has_aux the function must return (loss, aux), not {type(result).__name__}.")
    return result


def _check_loss(loss, op):
    if type(loss) is KnetArray and loss.ndim == 0 and loss.dtype.kind == "f":
        return
    if type(loss) is KnetArray or hasattr(loss, "__array_interface__"):
        if loss.ndim != 0:
            raise TypeError(f"[{op}] the function returned shape {tuple(loss.shape)}, but only a scalar has a gradient. "
                            f"Reduce it, for example with .sum() or .mean().")
        if loss.dtype.kind != "f" and type(loss) is KnetArray:
            raise TypeError(f"[{op}] the function returned {loss.dtype}, but only floats have gradients. "
                            f"Does it end in a comparison, a count or an argmax?")
    elif not isinstance(loss, (int, float)):
        hint = " Is a return missing?" if loss is None else ""
        raise TypeError(f"[{op}] the function returned {type(loss).__name__}, not a scalar.{hint}")


def _zeros(leaves, nested):
    return [_zero(x, nested) for x in leaves]


def _zero(x, nested):
    if isinstance(x, (int, float)) and not hasattr(x, "dtype"):
        return 0.0
    if type(x) is KnetArray or nested:
        return _core.stop(x) * 0 if nested else (x * 0)
    return x * 0


def _as_given(gradients, loss, leaves):
    """Each gradient as what its parameter is, and the loss as a number if none of them is a KnetArray."""
    gradients = [g if type(x) is KnetArray else _like(g, x) for g, x in zip(gradients, leaves)]
    if type(loss) is KnetArray and not any(type(x) is KnetArray for x in leaves):
        loss = loss.item()
    return gradients, loss


def _like(g, x):
    """The gradient `g` as what the parameter `x` is."""
    if not hasattr(x, "dtype"):
        return g.item()
    return g.numpy() if hasattr(x, "__setitem__") else type(x)(g.item())


# ---- a user's own operations

def primitive(f=None, *, derivative=None):
    """Define an operation and its derivative.

    The decorated function computes the result, in any way; it receives plain values (not tracked), so that it may call
    NumPy or any library. Its derivative is `rule(dy, y, *xs)`: the gradient of the result, the result and the arguments
    in, one gradient per argument out (None for zero). It is written with knet's operations, runs once per signature
    (shapes and dtypes) and may not read values. Keyword arguments are passed to both; they are structure and must be
    hashable.

    >>> @primitive
    ... def cube(x):
    ...     return x * x * x
    >>> @cube.derivative
    ... def _(dy, y, x):
    ...     return dy * 3 * x * x
    >>> grad(cube)(2.0)
    12.0
    """
    if f is None:
        return functools.partial(primitive, derivative=derivative)
    return Primitive(f, derivative)


class Primitive:
    """An operation with a derivative of the user's own; see `primitive`."""

    def __init__(self, f, derivative=None):
        functools.update_wrapper(self, f)
        self._f = f
        self._derivative = derivative
        self._rules = {}  # keyword arguments -> number of the rule in the engine

    def derivative(self, rule):
        """Decorator: `rule(dy, y, *xs)` is the derivative."""
        self._derivative = rule
        self._rules.clear()
        return rule

    def __call__(self, *xs, **kwargs):
        if not any(_core.tracked(x) for x in xs):
            return self._f(*xs, **kwargs)
        y = self._f(*[_constant(x) for x in xs], **kwargs)
        if self._derivative is None:
            raise TypeError(f"[{self.__name__}] has no derivative. Give it one with @{self.__name__}.derivative.")
        key = tuple(sorted(kwargs.items()))
        if key not in self._rules:
            rule = functools.partial(self._derivative, **kwargs) if kwargs else self._derivative
            self._rules[key] = _core.add_rule(rule)
        return _core.custom(y, list(xs), self._rules[key])


# ---- checking

def gradcheck(f, w, *args, nsample=10, delta=1e-5, rtol=1e-4, atol=1e-6, verbose=False, seed=0, **kwargs):
    """Does the gradient of `f` with respect to its first argument agree with central differences?

    Up to `nsample` entries of each parameter array are tested, all if there are no more; parameters are taken as
    float64. Results that are not scalars are reduced by a fixed random projection. Returns True if every
    |analytic - numeric| <= atol + rtol * |numeric|; `verbose` prints those that are not.

    >>> gradcheck(lambda w, x: (w[0] * x + w[1]) ** 2, [2.0, 1.0], 3.0)
    True
    """
    import random

    from . import array, sum as total
    pick = random.Random(seed)
    leaves, paths, rebuild = tree.flatten(w, "gradcheck")
    points = [float(x) if isinstance(x, (int, float)) else _as_float64(x) for x in leaves]

    weights = {}

    def scalar(p, *more, **kw):
        y = f(p, *more, **kw)
        if not getattr(y, "ndim", 0):
            return y
        shape = tuple(y.shape)
        if shape not in weights:
            noise = random.Random(1)
            weights[shape] = array([noise.uniform(-1, 1) for _ in range(y.size)], dtype="float64").reshape(shape)
        return total(y * weights[shape])

    analytic = tree.leaves(grad(scalar)(rebuild(points), *args, **kwargs))
    good = True
    for n, (x, d) in enumerate(zip(points, analytic)):
        size = 1 if isinstance(x, float) else x.size
        for i in range(size) if size <= nsample else sorted(pick.sample(range(size), nsample)):
            def at(step):
                moved = list(points)
                if isinstance(x, float):
                    moved[n] = x + step
                else:
                    flat = x.reshape(-1).tolist()
                    flat[i] += step
                    moved[n] = array(flat, dtype="float64").reshape(x.shape)
                y = scalar(rebuild(moved), *args, **kwargs)
                return y.item() if hasattr(y, "item") else float(y)
            numeric = (at(delta) - at(-delta)) / (2 * delta)
            exact = d if isinstance(d, float) else d.reshape(-1)[i].item()
            if not abs(exact - numeric) <= atol + rtol * abs(numeric):
                good = False
                if verbose:
                    print(f"gradcheck: entry {i} of the parameter{paths[n]}: analytic {exact}, numeric {numeric}")
    return good


def _as_float64(x):
    from . import array
    return array(x, dtype="float64")
