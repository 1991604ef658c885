"""Data sets of the examples: MNIST, Boston housing, texts.

Each is read from the folder named by `KNET_DATA` (`mnist/*.gz`, `housing/housing.data`, `text/*.txt`), else from the
user's cache, else downloaded and kept there; see `download`. Without any of these a stand-in made on the spot takes
its place and one line on standard error says so.
"""
import functools
import gzip
import sys
from typing import NamedTuple

import numpy as np

from . import standin as _standin
from .download import FILES, DataError, Unavailable, cache_folder, find

__all__ = ["mnist", "housing", "text", "Mnist", "DataError", "Unavailable", "cache_folder"]

TEXTS = {"hiawatha": "text/hiawatha-pg19.txt", "shakespeare": "text/shakespeare-pg100-0.txt",
         "tinyshakespeare": "text/tinyshakespeare.txt"}
_told = set()


class Mnist(NamedTuple):
    """Images (n, 1, 28, 28) float32 from 0 to 1 and classes (n,) int64, for training and for testing."""
    xtrn: np.ndarray
    ytrn: np.ndarray
    xtst: np.ndarray
    ytst: np.ndarray


def mnist(standin: bool | None = None) -> Mnist:
    """Handwritten digits, 60000 to train and 10000 to test; stand-in: 12000 and 2000 rendered ones.

    standin: None falls back to the stand-in, False raises `Unavailable` instead, True does not look for the files.

    >>> xtrn, ytrn, xtst, ytst = mnist(standin=True)
    >>> xtrn.shape, ytst.shape
    ((12000, 1, 28, 28), (2000,))
    """
    names = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
             "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    raw = _real_or(standin, "MNIST", "12000 + 2000 digits drawn by a program",
                   lambda: [_idx(find(f"mnist/{name}")) for name in names], _digits)
    images = [x[:, None].astype(np.float32) / np.float32(255) for x in raw[::2]]
    labels = [y.astype(np.int64) for y in raw[1::2]]
    return Mnist(images[0], labels[0], images[1], labels[1])


def housing(standin: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Boston housing: 13 features of 506 districts (506, 13) and prices in 1000 $ (506, 1), float64, not normalised.

    standin: as for `mnist`; a synthetic linear relation of the same shape.

    >>> x, y = housing(standin=True)
    >>> x.shape, y.shape
    ((506, 13), (506, 1))
    """
    def real():
        table = np.array(find("housing/housing.data").split(), np.float64).reshape(506, 14)
        return table[:, :13].copy(), table[:, 13:].copy()

    return _real_or(standin, "Boston housing", "a synthetic regression set", real, _standin.regression)


def text(name: str, standin: bool | None = None) -> str:
    """A text by name: "hiawatha", "shakespeare" (Project Gutenberg's, complete) or "tinyshakespeare".

    Line ends and the header of the file are kept as they are. standin: as for `mnist`; text that ships with Python.

    >>> text("hiawatha", standin=True)[:26]
    'The Zen of Python, by Tim '
    """
    if name not in TEXTS:
        raise DataError(f"[data] there is no text named {name!r}. Choose one of {', '.join(TEXTS)}.")
    return _real_or(standin, f"the text {name!r}", "text that ships with Python",
                    lambda: find(TEXTS[name]).decode("utf-8"), _standin.prose)


def _real_or(standin, what, instead, real, made):
    if standin:
        return made()
    try:
        return real()
    except Unavailable as error:
        if standin is False:
            raise
        if what not in _told:
            _told.add(what)
            print(f"knet: {what} is not on this machine (KNET_DATA may name a folder that has it) and could not be "
                  f"downloaded; using {instead} instead", file=sys.stderr, flush=True)
        return made()


@functools.lru_cache(1)
def _digits():
    return *_standin.digits(12000, 1), *_standin.digits(2000, 2)


def _idx(content):
    """The array in an IDX file of unsigned bytes: magic 0 0 8 rank, big-endian extents, data in C order."""
    content = gzip.decompress(content)
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
