"""Products of matrices: matmul with its derivative, and everything that is lowered to it."""
import functools
import math
import operator

from .define import face, function, np, ops, primitive, sample
from .shape import _summed_to, as_array, norm_axes, reshape, swapaxes, transpose


def _t(x):
    return swapaxes(x, -1, -2)


matmul = primitive(
    "matmul", "a, b", "Contraction",
    grad=(lambda dy, y, a, b: _summed_to(_a_grad(dy, a, b), a.shape),
          lambda dy, y, a, b: _summed_to(_b_grad(dy, a, b), b.shape)),
    reference="matmul",
    samples=[sample((3, 4), (4, 2)), sample((2, 1, 3, 4), (5, 4, 2)), sample((2, 3, 4), (4, 2)), sample((3, 0), (0, 2)),
             sample((3, 4), (2, 4, 2)), sample((4,), (4,)), sample((3, 4), (4,)), sample((4,), (4, 2)),
             sample((5, 3, 4), (4,)), sample((4,), (5, 4, 2)), sample((0,), (0,)), sample((2, 3, 0), (0,))],
    doc="Matrix product; stacks of matrices broadcast. A vector is a row on the left, a column on the right.")


def _column(x):
    return reshape(x, (*x.shape, 1))


def _row(x):
    return reshape(x, (*x.shape[:-1], 1, x.shape[-1]))


def _rows(x):
    """All rows of a stack of matrices, one below the other."""
    return x if len(x.shape) == 2 else reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _vector(x):
    return x if len(x.shape) == 1 else reshape(x, (math.prod(x.shape),))


def _a_grad(dy, a, b):
    if len(b.shape) == 1:
        return ops.multiply(_column(dy) if dy.shape else dy, b)
    if len(a.shape) == 1:
        return matmul(b, dy) if len(b.shape) == 2 else ops.sum(ops.multiply(b, _row(dy)), -1)
    return matmul(dy, _t(b))


def _b_grad(dy, a, b):
    if len(a.shape) == 1:
        return ops.multiply(a, dy) if len(b.shape) == 1 else ops.multiply(_column(a), _row(dy))
    # One b for a whole stack: one product over all rows, not a stack of products to be summed.
    if len(b.shape) == 1:
        return matmul(_vector(dy), _rows(a))
    if len(b.shape) == 2 and len(a.shape) > 2:
        a, dy = _rows(a), _rows(dy)
    return matmul(_t(a), dy)


@face(matmul)
def _matmul(a, b):
    """Matrix product, a @ b. Stacks of matrices broadcast; a vector is a row on the left and a column on the right, and
    its dimension does not appear in the result."""
    a, b = as_array(a), as_array(b)
    if not a.shape or not b.shape:
        raise ValueError(f"[matmul] a scalar is no matrix: {tuple(a.shape)} @ {tuple(b.shape)}. Use * to scale.")
    return matmul(a, b)


@function(
    reference="dot",
    samples=[
        sample((3,), (3,)),
        sample((2, 3), (3,)),
        sample((2, 3), (3, 4)),
        sample((2, 3, 4), (5, 4, 2)),
        sample((), (2, 3)),
    ],
)
def dot(a, b):
    """Sum over the last axis of a and the last but one of b; a product if one is a scalar."""
    a, b = as_array(a), as_array(b)
    if not a.shape or not b.shape:
        return ops.multiply(a, b)
    if len(b.shape) <= 2:
        return _matmul(a, b)
    return tensordot(a, b, ((len(a.shape) - 1,), (len(b.shape) - 2,)))


@function(reference="vdot", samples=[sample((3,), (3,)), sample((2, 3), (2, 3))])
def vdot(a, b):
    """Sum of the products of all elements."""
    return _matmul(reshape(as_array(a), (-1,)), reshape(as_array(b), (-1,)))


@function(numpy=("vecdot",), samples=[sample((2, 3), (2, 3)), sample((2, 3), (3,))],
          reference=lambda a, b: np.sum(a * b, -1))
def vecdot(a, b, axis=-1):
    """Sum of products along one axis, of vectors that broadcast."""
    return ops.sum(ops.multiply(a, b), axis)


@function(numpy=("matvec",), samples=[sample((2, 3, 4), (4,)), sample((3, 4), (2, 4))],
          reference=lambda a, v: np.squeeze(np.matmul(a, v[..., None]), -1))
def matvec(a, v):
    """Products of stacks of matrices (..., m, n) and vectors (..., n): (..., m)."""
    return ops.squeeze(matmul(a, ops.expand_dims(v, -1)), -1)


@function(numpy=("vecmat",), samples=[sample((3,), (2, 3, 4)), sample((2, 3), (3, 4))],
          reference=lambda v, a: np.squeeze(np.matmul(v[..., None, :], a), -2))
def vecmat(v, a):
    """Products of stacks of vectors (..., m) and matrices (..., m, n): (..., n)."""
    return ops.squeeze(matmul(ops.expand_dims(v, -2), a), -2)


@function(reference="inner", samples=[sample((3,), (3,)), sample((2, 3), (4, 3)), sample((), (3,))])
def inner(a, b):
    """Sum of products over the last axes."""
    a, b = as_array(a), as_array(b)
    if not a.shape or not b.shape:
        return ops.multiply(a, b)
    return tensordot(a, b, ((len(a.shape) - 1,), (len(b.shape) - 1,)))


@function(reference="outer", samples=[sample((3,), (4,)), sample((2, 3), (2,))])
def outer(a, b):
    """All products of an element of a with one of b: a matrix."""
    a, b = as_array(a), as_array(b)
    return ops.multiply(reshape(a, (math.prod(a.shape), 1)), reshape(b, (1, math.prod(b.shape))))


@function(reference="tensordot", samples=[sample((2, 3, 4), (3, 4, 5)), sample((2, 3), (4, 5), axes=0),
                                          sample((2, 3, 4), (4, 2, 5), axes=((0, 2), (1, 0)))])
def tensordot(a, b, axes=2):
    """Sum over pairs of axes: the last `axes` of a with the first of b, or the two lists of axes given."""
    a, b = as_array(a), as_array(b)
    if isinstance(axes, (tuple, list)):
        of_a, of_b = norm_axes(axes[0], len(a.shape), "tensordot"), norm_axes(axes[1], len(b.shape), "tensordot")
    else:
        n = operator.index(axes)
        if not 0 <= n <= min(len(a.shape), len(b.shape)):
            raise ValueError(
                f"[tensordot] axes={n} is out of range for {tuple(a.shape)} and {tuple(b.shape)}. Use fewer."
            )
        of_a, of_b = tuple(range(len(a.shape) - n, len(a.shape))), tuple(range(n))
    summed = tuple(a.shape[i] for i in of_a)
    if summed != tuple(b.shape[i] for i in of_b):
        raise ValueError(
            f"[tensordot] summed dimensions differ: {tuple(a.shape)} axes {of_a}, {tuple(b.shape)} axes {of_b}. "
            "Pair axes of equal length."
        )
    keep_a = tuple(i for i in range(len(a.shape)) if i not in of_a)
    keep_b = tuple(i for i in range(len(b.shape)) if i not in of_b)
    rows, columns, k = (math.prod(s) for s in ([a.shape[i] for i in keep_a], [b.shape[i] for i in keep_b], summed))
    shape = (*(a.shape[i] for i in keep_a), *(b.shape[i] for i in keep_b))
    a = reshape(_ordered(a, keep_a + of_a), (rows, k))
    b = reshape(_ordered(b, of_b + keep_b), (k, columns))
    return reshape(matmul(a, b), shape)


def _ordered(x, axes):
    return x if axes == tuple(range(len(axes))) else transpose(x, axes)


@function(reference="kron", samples=[sample((2, 3), (3, 2)), sample((2,), (2, 3))])
def kron(a, b):
    """Kronecker product: b repeated as blocks, each scaled by an element of a."""
    a, b = as_array(a), as_array(b)
    n = max(len(a.shape), len(b.shape))
    sa, sb = ((1,) * (n - len(x.shape)) + tuple(x.shape) for x in (a, b))
    a = reshape(a, tuple(d for s in sa for d in (s, 1)))
    b = reshape(b, tuple(d for s in sb for d in (1, s)))
    return reshape(ops.multiply(a, b), tuple(p * q for p, q in zip(sa, sb)))


@function(samples=[sample((2, 3, 4), (2, 4, 5)), sample((2, 4, 3), (2, 4, 5), transpose_a=True)],
          reference=lambda a, b, transpose_a=False, transpose_b=False:
              np.matmul(a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b))
def bmm(a, b, transpose_a=False, transpose_b=False):
    """Matrix products of two stacks."""
    a, b = as_array(a), as_array(b)
    return matmul(_t(a) if transpose_a else a, _t(b) if transpose_b else b)


@function(reference="cross", samples=[sample((3,), (3,)), sample((2, 3), (2, 3))])
def cross(a, b, axis=-1):
    """Vector product of arrays of 3-vectors along an axis."""
    a, b = as_array(a), as_array(b)
    if a.shape[axis] != 3 or b.shape[axis] != 3:
        raise ValueError(
            f"[cross] vectors must have 3 elements along axis {axis}: {tuple(a.shape)} and {tuple(b.shape)}."
        )
    left, right = (lambda x: ops.roll(x, -1, axis)), (lambda x: ops.roll(x, -2, axis))
    return ops.subtract(ops.multiply(left(a), right(b)), ops.multiply(right(a), left(b)))


# ---- einsum

# Which products are made in which order is found once for each notation and shapes, on stand-ins, and kept: writing it
# down takes 60 us, doing it again 5 us.

class _Draft:
    """A stand-in for an array: a shape, and the steps that were done to all arrays so far. A step is a function, the
    places of its inputs among the arrays and earlier results, and its attribute (None: it has none)."""

    __slots__ = ("shape", "place", "steps")

    def __init__(self, shape, place, steps):
        self.shape, self.place, self.steps = tuple(shape), place, steps

    def then(self, shape, fn, attribute=None, other=None):
        inputs = (self.place,) if other is None else (self.place, other.place)
        self.steps.append((fn, inputs, attribute))
        return _Draft(shape, self.steps[0] + len(self.steps) - 2, self.steps)

    def reshape(self, shape):
        return self if tuple(shape) == self.shape else self.then(shape, reshape, tuple(shape))

    def ordered(self, axes):
        return self if axes == tuple(range(len(axes))) else self.then([self.shape[a] for a in axes], transpose, axes)

    def diagonal(self, i, j):
        n = min(self.shape[i], self.shape[j])
        kept = [m for a, m in enumerate(self.shape) if a not in (i, j)]
        return self.then((*kept, n), _diagonal, (i, j))

    def sum(self, axes):
        return self.then([n for a, n in enumerate(self.shape) if a not in axes], ops.sum, axes)

    def times(self, other):
        shape = ops.broadcast_shapes(self.shape, other.shape)
        return self.then(shape, ops.multiply, other=other)

    def matmul(self, other):
        return self.then((*self.shape[:-1], other.shape[-1]), matmul, other=other)


def _diagonal(x, axes):
    return ops.diagonal(x, 0, *axes)


def _einsum_error(subscripts, shapes, what):
    shapes = ", ".join(map(str, shapes))
    return ValueError(
        f"[einsum] {what}: {subscripts!r} of {shapes}. Write one letter for each axis, as in 'ij,jk->ik'."
    )


def _parse_einsum(subscripts, shapes):
    """Terms and result as strings of single letters; the axes of an ellipsis become letters that nobody wrote."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise _einsum_error(subscripts, shapes, f"{len(terms)} terms for {len(shapes)} arrays")
    widest, full = 0, []
    for term, shape in zip(terms, shapes):
        before, dots, after = term.partition("...")
        if not (before + after).isalpha() and before + after or "." in before + after:
            raise _einsum_error(subscripts, shapes, f"{term!r} is not understood")
        extra = len(shape) - len(before + after)
        if extra < 0 or (extra and not dots):
            raise _einsum_error(
                subscripts, shapes, f"{term!r} does not name the axes of an array of {len(shape)} dimensions"
            )
        widest = max(widest, extra)
        full.append((before, extra if dots else 0, after))
    hidden = "".join(chr(0xE000 + i) for i in range(widest))
    terms = [before + hidden[widest - extra:] + after for before, extra, after in full]
    if not arrow:
        letters = "".join(before + after for before, _, after in full)
        out = hidden + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    else:
        before, dots, after = right.partition("...")
        out = before + (hidden if dots else "") + after
        if len(set(out)) != len(out) or set(out) - set("".join(terms)):
            raise _einsum_error(subscripts, shapes, f"the result {right!r} must name axes of the terms, each once")
    return terms, out


def _prepare(x, term, needed):
    """Diagonals for letters written twice; sums over letters that nobody else needs."""
    for c in dict.fromkeys(term):
        while term.count(c) > 1:
            i = term.index(c)
            j = term.index(c, i + 1)
            x = x.diagonal(i, j)
            term = term[:i] + term[i + 1:j] + term[j + 1:] + c
    gone = tuple(i for i, c in enumerate(term) if c not in needed)
    if gone:
        x = x.sum(gone)
        term = "".join(c for c in term if c in needed)
    return x, term


def _without(x, term, c):
    """x without an axis of length 1."""
    i = term.index(c)
    return x.reshape(x.shape[:i] + x.shape[i + 1:]), term[:i] + term[i + 1:]


def _pair(x, p, y, q, needed):
    """The product of two terms, summed over the letters that nobody else needs: one batched matmul."""
    # Axes of length 1 broadcast: where the other term's is longer, it alone has that letter.
    for c in [c for c in p if c in q]:
        n, m = x.shape[p.index(c)], y.shape[q.index(c)]
        if n != m and n == 1:
            x, p = _without(x, p, c)
        elif n != m:
            y, q = _without(y, q, c)
    x, p = _prepare(x, p, needed | set(q))
    y, q = _prepare(y, q, needed | set(p))
    sizes = {**dict(zip(p, x.shape)), **dict(zip(q, y.shape))}
    batch = [c for c in p if c in q and c in needed]
    summed = [c for c in p if c in q and c not in needed]
    rows = [c for c in p if c not in q]
    columns = [c for c in q if c not in p]
    if not summed:  # nothing to add up: an elementwise product
        letters = batch + rows + columns
        x = x.ordered(tuple(p.index(c) for c in batch + rows)).reshape([sizes[c] if c in p else 1 for c in letters])
        y = y.ordered(tuple(q.index(c) for c in batch + columns)).reshape([sizes[c] if c in q else 1 for c in letters])
        return x.times(y), "".join(letters)
    size = lambda cs: [sizes[c] for c in cs]  # noqa: E731
    b, k = size(batch), math.prod(size(summed))
    x = x.ordered(tuple(p.index(c) for c in batch + rows + summed)).reshape((*b, math.prod(size(rows)), k))
    y = y.ordered(tuple(q.index(c) for c in batch + summed + columns)).reshape((*b, k, math.prod(size(columns))))
    return x.matmul(y).reshape((*b, *size(rows), *size(columns))), "".join(batch + rows + columns)


@functools.lru_cache(4096)
def _einsum_steps(subscripts, *shapes):
    """What einsum does to arrays of these shapes: steps as in _Draft, and the place of the result."""
    terms, out = _parse_einsum(subscripts, shapes)
    sizes = {}
    for term, shape in zip(terms, shapes):
        for c, n in zip(term, shape):
            if sizes.setdefault(c, n) != n and n != 1:
                if sizes[c] != 1:
                    name = c if c.isascii() else "..."
                    raise _einsum_error(subscripts, shapes, f"{name!r} stands for {sizes[c]} and for {n}")
                sizes[c] = n
    steps = [len(shapes)]  # behind the number of arrays, so that a draft knows its place
    work = [(_Draft(shape, i, steps), term) for i, (shape, term) in enumerate(zip(shapes, terms))]
    # Repeated letters first: their diagonals are smaller.
    work = [
        _prepare(x, t, set(out).union(*(u for j, (_, u) in enumerate(work) if j != i))) for i, (x, t) in enumerate(work)
    ]
    while len(work) > 1:
        def cost(ij):
            i, j = ij
            others = set(out).union(*(t for k, (_, t) in enumerate(work) if k not in ij))
            union = set(work[i][1]) | set(work[j][1])
            return (math.prod(sizes[c] for c in union & others), math.prod(sizes[c] for c in union), ij)

        i, j = min(((i, j) for i in range(len(work)) for j in range(i + 1, len(work))), key=cost)
        others = set(out).union(*(t for k, (_, t) in enumerate(work) if k not in (i, j)))
        product = _pair(*work[i], *work[j], others)
        work = [w for k, w in enumerate(work) if k not in (i, j)] + [product]
    x, term = work[0]
    place = x.ordered(tuple(term.index(c) for c in out)).place
    return tuple(steps[1:]), place


@function(numpy=("einsum",))
def einsum(subscripts, *arrays):
    """Sums of products, in Einstein's notation.

    einsum("ij,jk->ik", a, b) is a @ b. Letters that the result does not name are summed; a letter written twice in one
    term takes a diagonal; "..." stands for axes that broadcast. Without "->" the result names, in alphabetical order,
    the letters that occur once. Of several arrays the pair with the smallest product is multiplied first."""
    if not isinstance(subscripts, str):
        raise TypeError(f"[einsum] the subscripts are {type(subscripts).__name__}. Write them as text: 'ij,jk->ik'.")
    values = [as_array(x) for x in arrays]
    steps, result = _einsum_steps(subscripts, *[tuple(x.shape) for x in values])
    for fn, places, attribute in steps:
        inputs = [values[i] for i in places]
        values.append(fn(*inputs) if attribute is None else fn(*inputs, attribute))
    return values[result]
