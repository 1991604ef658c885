"""Data made on the spot, for a machine that has neither the real files nor a network.

The same numbers every time: digits and the regression set from a seed, the text from what ships with Python.
"""
import contextlib
import io

import numpy as np

# Pen strokes of the digits through these points of the unit square (x to the right, y down); a point given twice
# is a corner. Several forms of a digit are equally likely.
_GLYPHS = (
    ([[(.55, .06), (.28, .16), (.16, .5), (.28, .86), (.52, .95), (.76, .82), (.84, .5), (.74, .17), (.52, .05)]],),
    ([[(.52, .05), (.5, .5), (.48, .95)]],
     [[(.3, .25), (.52, .06), (.52, .06), (.5, .5), (.5, .95)]],
     [[(.3, .25), (.52, .06), (.52, .06), (.5, .5), (.5, .94)], [(.28, .94), (.72, .95)]]),
    ([[(.18, .25), (.35, .08), (.65, .1), (.78, .3), (.6, .58), (.2, .93), (.2, .93), (.5, .92), (.85, .93)]],
     [[(.2, .22), (.42, .06), (.74, .18), (.68, .45), (.35, .85), (.18, .86), (.25, .72), (.5, .85), (.87, .88)]]),
    ([[(.2, .16), (.5, .05), (.76, .2), (.66, .42), (.42, .48), (.42, .48), (.7, .55), (.8, .75), (.55, .95),
       (.18, .85)]],
     [[(.2, .08), (.75, .08), (.75, .08), (.45, .42), (.45, .42), (.75, .55), (.78, .78), (.5, .95), (.18, .85)]]),
    ([[(.28, .08), (.18, .55), (.18, .55), (.5, .56), (.85, .52)], [(.68, .1), (.62, .5), (.6, .95)]],
     [[(.62, .05), (.15, .62), (.15, .62), (.5, .62), (.88, .62)], [(.62, .05), (.62, .5), (.62, .95)]]),
    ([[(.78, .08), (.32, .08), (.32, .08), (.25, .45), (.25, .45), (.55, .38), (.8, .6), (.7, .87), (.42, .95),
       (.17, .85)]],
     [[(.32, .1), (.27, .44), (.27, .44), (.58, .4), (.79, .62), (.66, .9), (.4, .95), (.18, .86)],
      [(.32, .1), (.8, .06)]]),
    ([[(.68, .06), (.38, .25), (.2, .6), (.3, .9), (.58, .95), (.76, .75), (.6, .55), (.35, .6), (.22, .72)]],
     [[(.4, .05), (.25, .4), (.2, .72), (.4, .94), (.7, .88), (.74, .66), (.5, .56), (.24, .72)]]),
    ([[(.17, .12), (.5, .1), (.82, .1), (.82, .1), (.6, .5), (.42, .95)]],
     [[(.17, .12), (.5, .1), (.82, .1), (.82, .1), (.6, .5), (.42, .95)], [(.36, .5), (.76, .48)]]),
    ([[(.5, .5), (.25, .3), (.35, .08), (.65, .08), (.75, .28), (.5, .5), (.22, .72), (.32, .93), (.68, .93),
       (.78, .72), (.5, .5)]],
     [[(.74, .2), (.5, .05), (.26, .2), (.4, .44), (.68, .6), (.76, .82), (.5, .95), (.26, .82), (.36, .58),
       (.62, .42), (.74, .2)]]),
    ([[(.76, .3), (.6, .1), (.32, .12), (.22, .35), (.4, .52), (.68, .45), (.77, .25), (.76, .5), (.7, .95)]],
     [[(.76, .28), (.55, .07), (.28, .16), (.26, .42), (.5, .52), (.74, .38), (.77, .25), (.74, .6), (.58, .9),
       (.28, .9)]]),
)
_PER_SEGMENT = 16  # points drawn between two neighbours: about two a pixel


def _basis(strokes):
    """The distinct points of a glyph (K, 2), and matrices (P, K) that draw the strokes through them (Catmull-Rom)."""
    points = sorted({p for stroke in strokes for p in stroke})
    t = np.linspace(0, 1, _PER_SEGMENT, endpoint=False)
    weights = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1) / 2
    matrices = []
    for stroke in strokes:
        index = [points.index(p) for p in (stroke[0], *stroke, stroke[-1])]
        rows = np.zeros((len(stroke) - 1, _PER_SEGMENT, len(points)), np.float32)
        for segment in range(len(stroke) - 1):
            for k in range(4):
                rows[segment, :, index[segment + k]] += weights[:, k]
        matrices.append(rows.reshape(-1, len(points)))
    return np.array(points, np.float32), matrices


def _draw(strokes, n, rng):
    """n images (n, 28, 28) of one glyph, values 0 to 1."""
    def normal(scale, *shape):
        return rng.standard_normal((n, *shape), np.float32) * np.float32(scale)

    points, matrices = _basis(strokes)
    points = points - 0.5 + normal(0.025, len(points), 2)
    # A slow wave bends the whole digit; then slant, turn, stretch, shift.
    phase, strength = rng.random((n, 1, 2), np.float32) * np.float32(2 * np.pi), normal(0.05, 1, 2)
    points = points + strength * np.sin(np.float32(np.pi) * points[:, :, ::-1] + phase)
    slant, turn, stretch = normal(0.18), normal(0.12), np.exp(normal(0.09, 2)) * np.float32(19)
    move = np.empty((n, 2, 2), np.float32)
    move[:, 0, 0], move[:, 0, 1] = np.cos(turn), np.sin(turn)
    move[:, 1, 0], move[:, 1, 1] = -np.sin(turn) - slant, np.cos(turn)
    points = points @ (move * stretch[:, None, :])
    points = points - (points.min(1, keepdims=True) + points.max(1, keepdims=True)) / 2 + 13.5 + normal(0.8, 1, 2)

    # Ink: each drawn point leaves its length of stroke in the four pixels around it.
    ink = np.zeros(n * 28 * 28)
    first = np.arange(n)[:, None] * 784
    for matrix in matrices:
        line = np.clip(matrix @ points, 3.01, 23.98)  # the pen is up to 3 pixels wide on each side
        length = np.sqrt((np.diff(line, axis=1) ** 2).sum(-1))
        line = line[:, :-1]
        corner = line.astype(np.int32)
        fx, fy = np.moveaxis(line - corner, -1, 0)
        at = first + corner[..., 1] * 28 + corner[..., 0]
        for step, part in ((0, (1 - fx) * (1 - fy)), (1, fx * (1 - fy)), (28, (1 - fx) * fy), (29, fx * fy)):
            ink += np.bincount((at + step).ravel(), (part * length).ravel(), len(ink))
    ink = ink.reshape(n, 28, 28).astype(np.float32)

    # The pen: a Gaussian of random width, pressed until the middle of the stroke is white.
    width = rng.uniform(0.7, 1.25, (n, 1, 1)).astype(np.float32)
    taps = [np.exp(-0.5 * (k / width) ** 2) for k in range(4)]
    total = taps[0] + 2 * (taps[1] + taps[2] + taps[3])
    for axis in (1, 2):
        blurred = taps[0] * ink
        for k in (1, 2, 3):
            blurred += taps[k] * (np.roll(ink, k, axis) + np.roll(ink, -k, axis))
        ink = blurred / total
    return np.clip(ink * (2.6 * width) - 0.12, 0, 1)


def digits(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n images of handwritten-looking digits (n, 28, 28) uint8, and their classes (n,) uint8."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n).astype(np.uint8)
    forms = rng.integers(0, 6, n)
    images = np.empty((n, 28, 28), np.uint8)
    for label, glyphs in enumerate(_GLYPHS):
        for form, strokes in enumerate(glyphs):
            which = np.flatnonzero((labels == label) & (forms % len(glyphs) == form))
            images[which] = _draw(strokes, len(which), rng) * 255
    return images, labels


def regression(n: int = 506, features: int = 13, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A linear relation with noise of standard deviation 4: features (n, features), values (n, 1), float64."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((n, 4)) @ rng.standard_normal((4, features))
    x = (hidden + rng.standard_normal((n, features))) * rng.uniform(0.5, 50, features) + rng.uniform(0, 100, features)
    standard = (x - x.mean(0)) / x.std(0, ddof=1)
    y = 22.5 + standard @ rng.normal(0, 1.5, (features, 1)) + rng.normal(0, 4, (n, 1))
    return x, y


def prose(length: int = 400_000) -> str:
    """Text that ships with Python: its Zen, then its language reference (or, without that, docstrings)."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    zen = "".join(this.d.get(c, c) for c in this.s)
    try:
        from pydoc_data.topics import topics
        parts = [topics[name] for name in sorted(topics)]
    except ImportError:
        import argparse, collections, decimal, difflib, logging, random, string, textwrap, threading
        modules = (argparse, collections, decimal, difflib, logging, random, string, textwrap, threading)
        parts = [getattr(m, name).__doc__ or "" for m in modules for name in sorted(m.__all__)]
    return "\n\n".join([zen, *parts])[:length]
