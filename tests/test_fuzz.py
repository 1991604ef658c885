"""Random programs: what they compute is NumPy's, their gradients are those of central differences, and neither handles that
are dropped or kept, nor values read in the middle, nor replays, nor the number of threads change that.

`pytest tests/test_fuzz.py --fuzz 20` draws twenty times as many; the seed of a failing program is part of its message."""
import math

import numpy as np
import pytest
from programs import Maker, draw_key, shape_of, to_ours

import knet

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


# ---- comparing

def ours(x):
    return x.numpy() if isinstance(x, knet.KnetArray) else np.asarray(x)


def agree(program, expected, got, loose=1.0):
    for i, e, g in zip(program.outputs, expected, got):
        g = ours(g)
        assert g.dtype == e.dtype and g.shape == e.shape, f"v{i}: {g.dtype}{g.shape}, NumPy {e.dtype}{e.shape}\n{program}"
        if e.dtype.kind != "f":
            ok = np.array_equal(g, e)
        else:
            scale = max(1.0, float(np.abs(e).max(initial=0)))
            ok = np.allclose(g, e, rtol=0, atol=scale * loose * (2e-3 if program.single else 1e-9))
        assert ok, f"v{i} differs\n{program}\nknet\n{g}\nNumPy\n{e}"


def fresh(program):
    return [knet.array(x) for x in program.leaves]


def bits(values):
    return [(ours(v).dtype, ours(v).shape, ours(v).tobytes()) for v in values]


@pytest.fixture(scope="module")
def fuzz(request):
    return request.config.getoption("--fuzz")


GROUPS = 10


@pytest.mark.parametrize("group", range(GROUPS))
def test_programs_compute_what_numpy_computes(group, fuzz):
    for seed in range(group, 2000 * fuzz, GROUPS):
        program = Maker(seed, int(np.random.default_rng(seed).choice([3, 10, 25, 60]))).program
        expected = program.run(np, [x.copy() for x in program.leaves])
        first = program.run(knet, fresh(program))
        agree(program, expected, first)
        assert bits(first) == bits(program.run(knet, fresh(program))), f"a replay differs\n{program}"
        agree(program, expected, program.run(knet, fresh(program), read=np.random.default_rng(seed)))


@pytest.mark.parametrize("group", range(GROUPS))
def test_gradients_of_programs(group, fuzz):
    for seed in range(1_000_000 + group, 1_000_000 + 1000 * fuzz, GROUPS):
        program = Maker(seed, int(np.random.default_rng(seed).choice([3, 8, 20])), gradient=True).program
        check_gradient(program, seed)


def loss_of(program, weights, xp, leaves, read=None):
    total = 0.0
    for y, w in zip(program.run(xp, leaves, read), weights):
        total = total + xp.sum(y * w)
    return total


def check_gradient(program, seed, nested=False):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=y.shape) for y in program.run(np, [x.copy() for x in program.leaves])]

    def loss(leaves, read=None):
        return loss_of(program, weights, knet, leaves, read)
    f = knet.grad(loss)
    first = [g.numpy() for g in f(fresh(program))]
    assert bits(first) == bits(f(fresh(program))), f"a replay differs\n{program}"
    scale = max([1.0] + [float(np.abs(g).max(initial=0)) for g in first])
    assert scale < 1e8 and all(np.isfinite(g).all() for g in first), f"{scale}\n{program}"
    read = [g.numpy() for g in f(fresh(program), np.random.default_rng(seed))]
    for i, (g, r) in enumerate(zip(first, read)):
        assert g.shape == program.leaves[i].shape == r.shape
        assert np.allclose(g, r, rtol=0, atol=1e-9 * scale), f"leaf {i}: reading changes\n{g}\nto\n{r}\n{program}"

    direction = [rng.normal(size=x.shape) for x in program.leaves]

    def along(t):
        return float(loss_of(program, weights, np, [np.asarray(x + t * d) for x, d in zip(program.leaves, direction)]))
    exact = sum(float((g * d).sum()) for g, d in zip(first, direction))
    same_as_differences(program, along, exact, "first derivative")
    if nested or seed % 3 == 0:
        def slope(leaves):
            return sum(((g * d).sum() for g, d in zip(f(leaves), direction)), 0.0)
        second = [g.numpy() for g in knet.grad(slope)(fresh(program))]
        curvature = sum(float((g * d).sum()) for g, d in zip(second, direction))

        def slope_at(t):
            g = f([knet.array(x + t * d) for x, d in zip(program.leaves, direction)])
            return sum(float((a.numpy() * d).sum()) for a, d in zip(g, direction))
        same_as_differences(program, slope_at, curvature, "second derivative")


def same_as_differences(program, f, exact, what):
    """Central differences of several widths; where they do not settle, the program has a kink nearby and shows nothing."""
    numeric = [(f(h) - f(-h)) / (2 * h) for h in (1e-5, 2e-6, 5e-7)]
    size = max(1.0, *map(abs, numeric))
    if not all(map(math.isfinite, numeric)) or max(numeric) - min(numeric) > 1e-5 * size:
        return
    left, right = ((f(h) - f(0)) / h for h in (-1e-6, 1e-6))
    if abs(left - right) > 1e-3 * size:
        return
    assert abs(exact - numeric[0]) <= 1e-4 * size, f"{what}: {exact}, by differences {numeric}\n{program}"


def test_programs_of_many_elements(fuzz):
    """Large enough to be shared among threads: any number of them gives the same bits."""
    before = knet.config.threads
    try:
        for seed in range(2_000_000, 2_000_000 + 12 * fuzz):
            program = Maker(seed, 12, big=True).program
            results = []
            for threads in (1, 4, 3):
                knet.config.threads = threads
                results.append(program.run(knet, fresh(program)))
            agree(program, program.run(np, [x.copy() for x in program.leaves]), results[0], loose=20)
            assert bits(results[0]) == bits(results[1]) == bits(results[2]), f"bits depend on threads\n{program}"
    finally:
        knet.config.threads = before


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_keys(group, fuzz):
    """Reading, assigning and differentiating by any key, wrong ones included."""
    for seed in range(3_000_000 + group, 3_000_000 + 5000 * fuzz, GROUPS):
        check_key(seed)


def check_key(seed):
    rng = np.random.default_rng(seed)
    shape = shape_of(rng)
    y = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    key = draw_key(rng, shape, wild=True)
    x = knet.array(y)
    what = f"seed {seed}: {shape}[{key!r}]"
    try:
        part = np.asarray(y[key])
    except IndexError:
        with pytest.raises(IndexError):
            x[key].numpy()
        with pytest.raises(IndexError):
            x[key] = 1
        return
    try:
        got = x[key].numpy()
    except IndexError:
        assert part.size == 0, what  # NumPy does not look at indices that take nothing
        return
    assert got.shape == part.shape and np.array_equal(got, part), what
    assert np.array_equal(x[to_ours(key)].numpy(), part), what
    w = rng.normal(size=part.shape)
    g = knet.grad(lambda x: (x[key] * w).sum())(knet.array(y))
    expected = np.zeros_like(y)
    np.add.at(expected, key, w)
    assert np.allclose(ours(g), expected), what
    v = -rng.integers(1, 99, part.shape[int(rng.integers(part.ndim + 1)):]).astype(float)
    unique = np.unique(np.arange(y.size).reshape(shape)[key]).size == part.size
    if unique:
        x[key] = v
        y = y.copy()
        y[key] = v
        assert np.array_equal(x.numpy(), y), what
