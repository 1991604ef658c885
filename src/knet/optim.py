"""Optimisers: the update rules of Sgd, Momentum, Nesterov, Adagrad, Adadelta, Rmsprop and Adam.

An optimiser holds its settings and, for each array that it has updated, its state. Defaults are those of Knet since
version 1.2. Formulas are Knet's too: `eps` is inside the root for Adagrad, Adadelta and Rmsprop, outside for Adam.

>>> import numpy as np
>>> w, g = [np.ones(3), 0.5], [np.full(3, 0.2), 0.1]
>>> update(w, g, lr=0.5)
[array([0.9, 0.9, 0.9]), 0.45]
>>> w = update(w, g, Adam(lr=0.01))
"""
import copy
import dataclasses
import math

import knet
from .tree import flatten

__all__ = ["Optimizer", "Sgd", "SGD", "Momentum", "Nesterov", "Adagrad", "Adadelta", "Rmsprop", "Adam", "update",
           "clip", "optimizers", "clone"]


class Optimizer:
    """What all optimisers share: `lr`, `gclip`, and a state for each array of the nest that is updated.

    lr: learning rate. gclip: largest Euclidean norm of one array's gradient, 0 for no limit (for a limit over all
    arrays together see `clip`). Both, and every other setting, may be changed at any time.
    """

    def __init__(self, lr, gclip=0.0):
        self.lr = lr
        self.gclip = gclip
        self.state = {}  # path of a leaf in the nest -> tuple of what `step` keeps for it

    def step(self, w, g, state):
        """The new value of one array and its new state; `state` is None the first time."""
        raise NotImplementedError

    def __repr__(self):
        settings = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k != "state")
        return f"{type(self).__name__}({settings})"


class Sgd(Optimizer):
    """Stochastic gradient descent: w ← w − lr·g."""

    def __init__(self, lr=0.1, gclip=0.0):
        super().__init__(lr, gclip)

    def step(self, w, g, state):
        return w - self.lr * g, None


SGD = Sgd


class Momentum(Optimizer):
    """Gradient descent with momentum: v ← γ·v + lr·g; w ← w − v."""

    def __init__(self, lr=0.05, gamma=0.95, gclip=0.0):
        super().__init__(lr, gclip)
        self.gamma = gamma

    def step(self, w, g, state):
        v = self.lr * g if state is None else self.gamma * state[0] + self.lr * g
        return w - v, (v,)


class Nesterov(Optimizer):
    """Nesterov's accelerated gradient: u ← γ·v; v ← u − lr·g; w ← w − u + (1+γ)·v."""

    def __init__(self, lr=0.05, gamma=0.95, gclip=0.0):
        super().__init__(lr, gclip)
        self.gamma = gamma

    def step(self, w, g, state):
        if state is None:
            v = -self.lr * g
            return w + (1 + self.gamma) * v, (v,)
        u = self.gamma * state[0]
        v = u - self.lr * g
        return w - u + (1 + self.gamma) * v, (v,)


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): G ← G + g²; w ← w − lr·g / √(G+eps)."""

    def __init__(self, lr=0.05, eps=1e-6, gclip=0.0):
        super().__init__(lr, gclip)
        self.eps = eps

    def step(self, w, g, state):
        total = g * g if state is None else state[0] + g * g
        return w - self.lr * g / _sqrt(total + self.eps), (total,)


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012): G ← ρG + (1−ρ)g²; u = g·√(δ+eps)/√(G+eps); w ← w − lr·u; δ ← ρδ + (1−ρ)u²."""

    def __init__(self, lr=1.0, rho=0.9, eps=1e-6, gclip=0.0):
        super().__init__(lr, gclip)
        self.rho, self.eps = rho, eps

    def step(self, w, g, state):
        mean, delta = state or (0 * g, 0 * g)
        mean = self.rho * mean + (1 - self.rho) * (g * g)
        u = g * _sqrt(delta + self.eps) / _sqrt(mean + self.eps)
        return w - self.lr * u, (mean, self.rho * delta + (1 - self.rho) * (u * u))


class Rmsprop(Optimizer):
    """RMSProp (Tieleman and Hinton 2012): G ← ρG + (1−ρ)g²; w ← w − lr·g / √(G+eps)."""

    def __init__(self, lr=0.01, rho=0.9, eps=1e-6, gclip=0.0):
        super().__init__(lr, gclip)
        self.rho, self.eps = rho, eps

    def step(self, w, g, state):
        mean = (1 - self.rho) * (g * g)
        if state is not None:
            mean = self.rho * state[0] + mean
        return w - self.lr * g / _sqrt(mean + self.eps), (mean,)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): m ← β1·m + (1−β1)g; v ← β2·v + (1−β2)g²; w ← w − lr·m̂ / (√v̂ + eps).

    m̂ = m/(1−β1^t) and v̂ = v/(1−β2^t), with t counting the updates of the array from 1.
    """

    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, gclip=0.0):
        super().__init__(lr, gclip)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def step(self, w, g, state):
        m, v = (1 - self.beta1) * g, (1 - self.beta2) * (g * g)
        t = 1
        if state is not None:
            t = state[0] + 1
            m, v = self.beta1 * state[1] + m, self.beta2 * state[2] + v
        rate = self.lr / (1 - self.beta1**t)
        return w - rate * m / (_sqrt(v / (1 - self.beta2**t)) + self.eps), (t, m, v)


def update(w, g, opt=None, *, lr=None, gclip=None):
    """Take one step of an optimiser and return the new parameters.

    w: parameters, any nest of lists, tuples, dicts and dataclasses; leaves are arrays or Python numbers. Lists, dicts
    and dataclasses receive the new leaves in place; for a tuple, a frozen dataclass or a single array use the result.
    g: gradients in the same nest. A leaf that is None, or a key that is missing from a dict, leaves its parameter alone.
    opt: one optimiser for the whole nest, or a nest of optimisers like w (see `optimizers`); None: `Sgd`.
    lr, gclip: settings for `Sgd` when opt is None.

    Raises ValueError where w, g and opt do not match.
    """
    if opt is None:
        opt = Sgd(0.1 if lr is None else lr, gclip or 0.0)
    elif lr is not None or gclip is not None:
        raise ValueError("[update] lr and gclip are for updates without an optimiser: an optimiser was given too. "
                         "Set opt.lr or opt.gclip.")
    return _update(w, g, opt, ())


def _update(w, g, opt, path):
    if g is None:
        return w
    one = isinstance(opt, Optimizer)
    keys = _keys(w)
    if keys is None:
        if not one:
            raise ValueError(f"[update] a {type(w).__name__}{_at(path)} needs one optimiser, not a "
                             f"{type(opt).__name__}. Make them with optimizers(w, Adam).")
        return _leaf(w, g, opt, path)
    if _keys(g) is None or not isinstance(w, dict) and len(_keys(g)) != len(keys):
        raise ValueError(f"[update] the parameters{_at(path)} are {_kind(w)} and the gradients are {_kind(g)}. "
                         "Give gradients in the nest of the parameters.")
    if not one and (_keys(opt) is None or not isinstance(w, dict) and len(_keys(opt)) != len(keys)):
        raise ValueError(f"[update] the parameters{_at(path)} are {_kind(w)} and the optimisers are {_kind(opt)}. "
                         "Make them with optimizers(w, Adam).")
    if isinstance(w, dict):
        keys = [k for k in keys if k in g]
    new = {k: _update(_get(w, k), _get(g, k), opt if one else _get(opt, k), path + (k,)) for k in keys}
    return _rebuild(w, new)


def _leaf(w, g, opt, path):
    if getattr(w, "shape", ()) != getattr(g, "shape", ()):
        raise ValueError(f"[update] the parameter{_at(path)} has shape {getattr(w, 'shape', ())} and its gradient "
                         f"{getattr(g, 'shape', ())}. Give the gradient of this parameter.")
    if opt.gclip > 0:
        g = g * (opt.gclip / _maximum(_sqrt(_square(g)), opt.gclip))
    w, opt.state[path] = opt.step(w, g, opt.state.get(path))
    return w


def clip(grads, max_norm):
    """Gradients scaled so that their Euclidean norm over all arrays together is at most max_norm.

    grads: any nest, as for `update`; max_norm: 0 for no limit. Returns a new nest; nothing is changed in place, and
    nothing is read back: the factor stays an array like the gradients.

    >>> clip([3.0, {"b": 4.0}], 1.0)
    [0.6..., {'b': 0.8}]
    """
    leaves, _, rebuild = flatten(grads, "clip")
    if not max_norm > 0 or not leaves:
        return grads
    factor = max_norm / _maximum(_sqrt(sum(_square(g) for g in leaves)), max_norm)
    return rebuild([g * factor for g in leaves])


def optimizers(model, Otype, **options):
    """A nest like `model` with an own Otype(**options) for each array.

    >>> optimizers([1.0, {"b": 2.0}], Sgd, lr=0.3)
    [Sgd(lr=0.3, gclip=0.0), {'b': Sgd(lr=0.3, gclip=0.0)}]
    """
    leaves, _, rebuild = flatten(model, "optimizers")
    return rebuild([Otype(**options) for _ in leaves])


def clone(opt):
    """An optimiser with the same settings and no state."""
    new = copy.copy(opt)
    new.state = {}
    return new


# Arithmetic that keeps the kind of its argument: KnetArray, NumPy array, Python float.

def _sqrt(x):
    if isinstance(x, knet.KnetArray):
        return knet.sqrt(x)
    if isinstance(x, (float, int)):
        return math.sqrt(x)
    import numpy
    return numpy.sqrt(x)


def _maximum(x, y):
    if isinstance(x, knet.KnetArray):
        return knet.maximum(x, y)
    return max(float(x), y)


def _square(g):
    return g * g if isinstance(g, (float, int)) else (g * g).sum()


# Nests, changed in place and with members left out, which tree.flatten does not do: the keys of a container, None for a
# leaf.

def _keys(x):
    if isinstance(x, (list, tuple)):
        return range(len(x))
    if isinstance(x, dict):
        return list(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return [f.name for f in dataclasses.fields(x)]
    return None


def _get(x, key):
    return getattr(x, key) if isinstance(key, str) and not isinstance(x, dict) else x[key]


def _rebuild(x, new):
    """x with the members `new`, in place where its type allows."""
    if isinstance(x, tuple):
        return type(x)(*new.values()) if hasattr(x, "_fields") else type(x)(new.values())
    if dataclasses.is_dataclass(x):
        if type(x).__dataclass_params__.frozen:
            return dataclasses.replace(x, **new)
        for name, value in new.items():
            setattr(x, name, value)
        return x
    for key, value in new.items():
        x[key] = value
    return x


def _at(path):
    return " at " + "".join(f"[{k!r}]" for k in path) if path else ""


def _kind(x):
    keys = _keys(x)
    return type(x).__name__ if keys is None else f"{type(x).__name__} of {len(keys)}"
