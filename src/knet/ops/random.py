"""Random numbers: counter-based, so they are the same for any number of threads and on every device.

Each call takes the next number of a counter, in the order of the Python program. Seed and counter are values: a new
seed, and every further step, runs the old plan.
"""
import math
import operator
import os

from .create import default_float
from .define import function, np, ops, primitive, sample
from .shape import as_array, as_shape, norm_axis, part, reshape

_MASK = (1 << 64) - 1


class Generator:
    """Where random numbers come from: a seed, and the count of calls since it was set."""

    def __init__(self, seed):
        self.seed(seed)

    def seed(self, n):
        """Start again from seed `n`."""
        try:
            self.key, self.counter = operator.index(n) & _MASK, 0
        except TypeError:
            raise TypeError(f"[seed] a seed is an integer, not {n!r}.") from None

    def next_key(self):
        """(seed, counter) for one random operation; no two calls return the same."""
        key = self.key, self.counter
        self.counter = (self.counter + 1) & _MASK
        return key


generator = Generator(int.from_bytes(os.urandom(8), "little"))


@function()
def seed(n):
    """Make all random numbers that follow depend on the integer `n` alone, whatever the device and the threads.

    >>> knet.seed(1)
    >>> first = knet.rand(3).tolist()
    >>> knet.seed(1)
    >>> knet.rand(3).tolist() == first
    True
    """
    generator.seed(n)


def next_key():
    """(seed, counter) for one random operation, from the module's generator."""
    return generator.next_key()


# ---- primitives. Their references are the generator's definition: Philox 4x32 with 10 rounds.

def _philox(seed, counter, blocks):
    """Four 32-bit words for each block: key = seed, counter words = (block, counter)."""
    u = np.uint64
    low = u(0xFFFFFFFF)
    block = np.arange(blocks, dtype=u)
    c = [block & low, block >> u(32), np.full(blocks, counter & 0xFFFFFFFF, u), np.full(blocks, counter >> 32, u)]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p, q = c[0] * u(0xD2511F53), c[2] * u(0xCD9E8D57)
        c = [(q >> u(32)) ^ c[1] ^ u(k[0]), q & low, (p >> u(32)) ^ c[3] ^ u(k[1]), p & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, -1)


def _words(seed, counter, n, bits):
    """n random words: of each block the four 32-bit words in order, or two 64-bit words, low half first."""
    per = 128 // bits
    w = _philox(int(seed) & _MASK, int(counter) & _MASK, -(-n // per))
    if bits == 64:
        w = w[:, ::2] | w[:, 1::2] << np.uint64(32)
    return w.reshape(-1)[:n]


def _np_uniform(seed, counter, shape, dtype):
    n = math.prod(shape)
    if str(dtype) == "float32":
        return (((_words(seed, counter, n, 32) >> np.uint64(8)) * 2.0**-24).astype("float32")).reshape(shape)
    return ((_words(seed, counter, n, 64) >> np.uint64(11)) * 2.0**-53).reshape(shape)


def _np_normal(seed, counter, shape, dtype):
    """Pairs by Box and Muller (1958): r cos(a), r sin(a) with r = sqrt(-2 ln u); u is never 0."""
    n = math.prod(shape)
    bits, mantissa = (32, 31) if str(dtype) == "float32" else (64, 53)
    w = _words(seed, counter, -(-n // 4) * 4, bits)
    u = ((w[::2] >> np.uint64(bits - mantissa)).astype("float64") + 0.5) * 2.0**-mantissa
    a = (w[1::2] >> np.uint64(max(bits - 53, 0))) * (2 * np.pi * 2.0 ** -min(bits, 53))
    r = np.sqrt(-2 * np.log(u))
    return np.stack([r * np.cos(a), r * np.sin(a)], -1).reshape(-1)[:n].astype(str(dtype)).reshape(shape)


def _np_bits(seed, counter, shape, dtype):
    return _words(seed, counter, math.prod(shape), int(str(dtype)[4:])).astype(str(dtype)).reshape(shape)


random_uniform = primitive(
    "random_uniform", "seed, counter, shape: ints, dtype: dtype", "Random", public=False, reference=_np_uniform,
    samples=[sample(7, 3, shape=(3, 5), dtype="float32"), sample(7, 1 << 40, shape=(7,), dtype="float64")],
    doc="Uniform numbers in [0, 1): the upper 24 (float32) or 53 (float64) bits of random words.")

random_normal = primitive(
    "random_normal", "seed, counter, shape: ints, dtype: dtype", "Random", public=False, reference=_np_normal,
    samples=[sample(7, 3, shape=(3, 5), dtype="float32"), sample(7, 1 << 40, shape=(7,), dtype="float64")],
    doc="Normal numbers of mean 0 and variance 1.")

random_bits = primitive(
    "random_bits", "seed, counter, shape: ints, dtype: dtype", "Random", public=False, reference=_np_bits,
    samples=[sample(7, 3, shape=(3, 5), dtype="uint32"), sample(7, 3, shape=(5,), dtype="uint64")],
    doc="Random words of 32 or 64 bits.")


# ---- what users call

def _shape_of(*params, shape):
    """The given shape, or the one that parameters broadcast to."""
    if shape is not None:
        return as_shape(shape)
    return ops.broadcast_shapes(*(getattr(p, "shape", ()) for p in params))


def _float(dtype):
    return default_float() if dtype is None else dtype


def _is(x, value):
    return isinstance(x, (int, float)) and x == value


@function()
def uniform(low=0.0, high=1.0, shape=None, dtype=None):
    """Uniform numbers in [low, high), which may be arrays, and gradients pass to them.

    shape: that of low and high broadcast unless given; dtype: float32 (see `knet.config`) or float64.
    """
    dtype = _float(dtype)
    u = random_uniform(*next_key(), shape=_shape_of(low, high, shape=shape), dtype=dtype)
    if _is(low, 0):
        return u if _is(high, 1) else ops.multiply(u, high)
    return ops.add(ops.multiply(u, high - low), low)


@function()
def normal(mean=0.0, std=1.0, shape=None, dtype=None):
    """Normal numbers with this mean and standard deviation, which may be arrays, and gradients pass to them.

    shape: that of mean and std broadcast unless given; dtype: float32 (see `knet.config`) or float64. By the method of
    Box and Muller (1958).
    """
    dtype = _float(dtype)
    z = random_normal(*next_key(), shape=_shape_of(mean, std, shape=shape), dtype=dtype)
    z = z if _is(std, 1) else ops.multiply(z, std)
    return z if _is(mean, 0) else ops.add(z, mean)


@function()
def rand(*shape, dtype=None):
    """Uniform numbers in [0, 1): rand(2, 3)."""
    return uniform(shape=shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape, dtype=dtype)


@function()
def randn(*shape, dtype=None):
    """Normal numbers of mean 0 and variance 1: randn(2, 3)."""
    return normal(shape=shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape, dtype=dtype)


@function(aliases=("randint",))
def integers(low, high=None, shape=(), dtype="int64"):
    """Integers in low, ..., high - 1 (0, ..., low - 1 if there is no high), all equally likely.

    Raises ValueError if there is none, or if the range is wider than 2**53.
    """
    if high is None:
        low, high = 0, low
    if isinstance(low, int) and isinstance(high, int):
        if high <= low:
            raise ValueError(f"[integers] no integer is at least {low} and below {high}. Use high > low.")
        if high - low > 1 << 53:
            raise ValueError(f"[integers] the range {low} to {high} is wider than 2**53. Use random_bits.")
    # 53 random bits scaled to the range: the probability of an integer is off by at most range / 2**53 of itself.
    u = random_uniform(*next_key(), shape=_shape_of(low, high, shape=shape), dtype="float64")
    n = ops.cast(ops.floor(ops.multiply(u, high - low)), dtype="int64")
    return ops.cast(ops.add(n, low), dtype=dtype)


@function()
def permutation(x, axis=0):
    """The integers 0, ..., x - 1 in random order, or an array with its parts along an axis in random order."""
    n = x if isinstance(x, int) else as_array(x).shape[axis]
    # 64-bit keys: two are equal with probability n**2 / 2**65, and then keep their order.
    order = ops.argsort(random_bits(*next_key(), shape=(n,), dtype="uint64"))
    return order if isinstance(x, int) else ops.take(x, order, axis)


@function()
def bernoulli(p=0.5, shape=None, dtype="bool"):
    """True with probability p, which may be an array; the shape is that of p unless given."""
    if isinstance(p, (int, float)) and not 0 <= p <= 1:
        raise ValueError(f"[bernoulli] p={p} is not a probability. Give a number from 0 to 1.")
    u = random_uniform(*next_key(), shape=_shape_of(p, shape=shape), dtype="float32")
    hit = ops.less(u, p)
    return ops.cast(hit, dtype=dtype)


@function()
def categorical(logits=None, probs=None, axis=-1, shape=()):
    """Indices drawn with probabilities `probs`, or proportional to exp(logits), along an axis; `shape` draws for each
    of the others, in front."""
    if (logits is None) == (probs is None):
        raise ValueError("[categorical] needs either logits or probs. Give one of them.")
    x = as_array(logits) if probs is None else ops.log(as_array(probs))
    axis = norm_axis(axis, len(x.shape), "categorical")
    shape = as_shape(shape)
    # The largest of logits plus Gumbel noise; 1 - u is never 0.
    u = random_uniform(
        *next_key(), shape=(*shape, *x.shape), dtype="float64" if str(x.dtype) == "float64" else "float32"
    )
    noise = ops.negative(ops.log(ops.negative(ops.log1p(ops.negative(u)))))
    return ops.argmax(ops.add(x, noise), axis + len(shape))


@function()
def choice(x, shape=(), replace=True, p=None):
    """Elements drawn from a vector (or from 0, ..., x - 1), with probabilities p if given.

    replace: whether one may be drawn again. Raises ValueError where more are to be drawn than there are.
    """
    n = x if isinstance(x, int) else as_array(x).shape[0]
    shape = as_shape(shape)
    count = math.prod(shape)
    if replace:
        i = integers(0, n, shape) if p is None else categorical(probs=p, shape=shape)
    elif count > n:
        raise ValueError(f"[choice] {count} different elements of {n} cannot be drawn. Use replace=True.")
    elif p is None:
        i = reshape(part(permutation(n), 0, 0, count), shape)
    else:
        noise = uniform(shape=(n,), dtype="float64")
        key = ops.subtract(ops.log(as_array(p)), ops.log(ops.negative(ops.log1p(ops.negative(noise)))))
        i = reshape(ops.topk(key, count)[1], shape)
    return i if isinstance(x, int) else ops.take(x, i, 0)
