"""Files of data sets: found, or downloaded, and always checked.

A file is looked for in the folder named by the environment variable `KNET_DATA`, then in the user's cache, and
is downloaded when neither has it. Its SHA-256 is compared every time; a file that differs is never used.
"""
import hashlib
import os
import queue
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

ANSWER = 2.5  # seconds for a mirror's first byte, name lookup included: three dead mirrors cost 7.5 s
STALL = 15.0  # seconds between two pieces of a download that has begun


class DataError(RuntimeError):
    """A data set cannot be used."""


class Unavailable(DataError):
    """A file is not on this machine and no mirror gave it."""


class File(NamedTuple):
    size: int  # bytes
    sha256: str
    urls: tuple[str, ...]


def _mnist(name, size, sha256):
    return File(size, sha256, (
        f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}",
        f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}",
        "https://raw.githubusercontent.com/golbin/TensorFlow-MNIST/575b78720ffc21211b48eb905cb827f40a142354"
        f"/mnist/data/{name}"))


FILES = {
    "mnist/train-images-idx3-ubyte.gz": _mnist(
        "train-images-idx3-ubyte.gz", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "mnist/train-labels-idx1-ubyte.gz": _mnist(
        "train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "mnist/t10k-images-idx3-ubyte.gz": _mnist(
        "t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "mnist/t10k-labels-idx1-ubyte.gz": _mnist(
        "t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    "housing/housing.data": File(
        49082, "baadf72995725d76efe787b664e1f083388c79ba21ef9a7990d87f774184735a", (
            "https://archive.ics.uci.edu/ml/machine-learning-databases/housing/housing.data",
            "https://raw.githubusercontent.com/tailhq/DynaML/f5551a6dc09c10665ce6cee9da09798dded2aa60"
            "/data/housing.data")),
    "text/hiawatha-pg19.txt": File(
        214325, "c1f1725c6e9a8d96ac34de046f2c9ee320b49ed27f724dc51f85c643b715748f", (
            "https://raw.githubusercontent.com/GITenberg/The-Song-of-Hiawatha_19"
            "/cdbbd723df90db846089e5372ede0acb522cdc08/19.txt",
            "https://www.gutenberg.org/files/19/19.txt")),
    "text/shakespeare-pg100-0.txt": File(
        5852404, "17d47ae375676f7576feb3d931784223865403a18537707f9a567247015d6781", (
            "https://raw.githubusercontent.com/GITenberg/The-Complete-Works-of-William-Shakespeare_100"
            "/c6728ea4a6edd5f1bfabd31324dbd509b2c6f29a/100-0.txt",
            "https://www.gutenberg.org/files/100/100-0.txt")),
    "text/tinyshakespeare.txt": File(
        1115394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", (
            "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
            "/data/tinyshakespeare/input.txt",)),
}

_failed: str | None = None  # why no mirror could be reached: one process does not wait for a dead network twice


def cache_folder() -> Path:
    """The folder of this user where downloads are kept when `KNET_DATA` is not set or cannot be written."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "knet"
    if sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"]) / "knet" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knet"


def find(name: str) -> bytes:
    """The content of one of `FILES`, verified.

    Raises `Unavailable` when it is nowhere to be had, `DataError` when a copy on this machine is damaged.
    """
    kept = os.environ.get("KNET_DATA")
    folders = ([Path(kept)] if kept else []) + [cache_folder()]
    for folder in folders:
        path = folder / name
        if path.is_file():
            content = path.read_bytes()
            _check(content, FILES[name], path)
            return content
    content = download(name)
    _keep(content, folders, name)
    return content


def download(name: str) -> bytes:
    """The content of one of `FILES` from the first mirror that has it unchanged."""
    global _failed
    if _failed:
        raise Unavailable(f"[data] {name} is not on this machine and cannot be downloaded: {_failed}.")
    reasons, answered = [], False
    for url in FILES[name].urls:
        host = urlsplit(url).hostname
        try:
            content = _read(url, FILES[name].size)
            _check(content, FILES[name], url)
            return content
        except (OSError, DataError) as error:
            reasons.append(f"{host}: {error}")
            answered |= isinstance(error, DataError) or isinstance(error.__cause__, urllib.error.HTTPError)
    if not answered:
        _failed = "; ".join(reasons)
    raise Unavailable(f"[data] {name} is not on this machine and cannot be downloaded: {'; '.join(reasons)}.")


def _read(url, size):
    # In a thread, since looking up a host's name has no timeout of its own.
    pieces = queue.SimpleQueue()

    def work():
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "knet"})
            with urllib.request.urlopen(request, timeout=STALL) as answer:
                received = 0
                while received <= size and (piece := answer.read(1 << 16)):
                    received += len(piece)
                    pieces.put(piece)
            pieces.put(b"")
        except Exception as error:
            pieces.put(error)

    threading.Thread(target=work, daemon=True).start()
    content, limit = [], ANSWER
    while True:
        try:
            piece = pieces.get(timeout=limit)
        except queue.Empty:
            raise OSError(f"no answer within {limit:g} s") from None
        if isinstance(piece, Exception):
            raise OSError(str(getattr(piece, "reason", piece) or type(piece).__name__)) from piece
        if not piece:
            return b"".join(content)
        if not content:
            print(f"knet: downloading {url} ({size / 1e6:.1f} MB)", file=sys.stderr, flush=True)
        content.append(piece)
        limit = STALL


def _check(content, file, where):
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DataError(f"[data] {where} is damaged or another edition: {len(content)} bytes with SHA-256 {found}, "
                        f"expected {file.size} bytes with {file.sha256}. Delete it to have it downloaded again.")


def _keep(content, folders, name):
    # Written beside its place and renamed: a reader sees the whole file or none.
    for folder in folders:
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
        except OSError:
            continue
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            return
        except OSError:
            if os.path.exists(temporary):
                os.unlink(temporary)
        except BaseException:
            os.unlink(temporary)
            raise
