"""Data sets, their files, and what feeds the training loop."""
import gzip
import hashlib
import io
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import knet
from knet import data
from knet.data import download, standin
from knet.train import clock, minibatch, progress, stop

KEPT = os.environ.get("KNET_DATA")
real = pytest.mark.skipif(not KEPT, reason="KNET_DATA does not name a folder with the real files")


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Neither files nor a network: an empty cache, no KNET_DATA, mirrors that refuse."""
    monkeypatch.delenv("KNET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "knet")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "_failed", None)
    monkeypatch.setattr(data, "_told", set())
    monkeypatch.setattr(download, "FILES", {
        name: file._replace(urls=("http://127.0.0.1:9/x",)) for name, file in download.FILES.items()})
    return tmp_path / "knet"


class Mirror:
    """A server of files on this machine; `answer` is what it sends, `seconds` how long it thinks first."""

    def __init__(self):
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.asked += 1
                time.sleep(mirror.seconds)
                self.send_response(200 if mirror.answer is not None else 404)
                self.send_header("Content-Length", str(mirror.claimed or len(mirror.answer or b"")))
                self.end_headers()
                self.wfile.write(mirror.answer or b"")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/file"
        self.answer, self.claimed, self.seconds, self.asked = b"", None, 0.0, 0

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirrors():
    pair = Mirror(), Mirror()
    yield pair
    for mirror in pair:
        mirror.close()


CONTENT = b"first line\n" * 30000


def offer(monkeypatch, *mirrors):
    monkeypatch.setitem(download.FILES, "text/hiawatha-pg19.txt", download.File(
        len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), tuple(m.url for m in mirrors)))


def files(folder):
    return [p for p in folder.rglob("*") if p.is_file()] if folder.exists() else []


# --- downloads

def test_download_is_kept(alone, mirrors, monkeypatch, capfd):
    mirrors[0].answer = CONTENT
    offer(monkeypatch, *mirrors)
    assert data.text("hiawatha").encode() == CONTENT
    assert data.text("hiawatha").encode() == CONTENT
    assert mirrors[0].asked == 1 and mirrors[1].asked == 0
    assert [p.name for p in files(alone)] == ["hiawatha-pg19.txt"]
    assert "downloading" in capfd.readouterr().err


def test_download_goes_to_the_named_folder(alone, mirrors, monkeypatch, tmp_path):
    mirrors[0].answer = CONTENT
    offer(monkeypatch, mirrors[0])
    monkeypatch.setenv("KNET_DATA", str(tmp_path / "mine"))
    data.text("hiawatha")
    assert (tmp_path / "mine" / "text" / "hiawatha-pg19.txt").read_bytes() == CONTENT
    assert not files(alone)


@pytest.mark.parametrize("bad", [None, b"", CONTENT[:-1], CONTENT + b"x", b"<html>log in</html>"],
                         ids=["404", "empty", "short", "long", "page"])
def test_next_mirror(alone, mirrors, monkeypatch, bad):
    mirrors[0].answer, mirrors[1].answer = bad, CONTENT
    offer(monkeypatch, *mirrors)
    assert data.text("hiawatha").encode() == CONTENT
    assert mirrors[0].asked == 1 and len(files(alone)) == 1


def test_broken_connection_leaves_nothing(alone, mirrors, monkeypatch, capfd):
    mirrors[0].answer, mirrors[0].claimed = CONTENT[:1000], len(CONTENT)
    offer(monkeypatch, mirrors[0])
    assert data.text("hiawatha").startswith("The Zen of Python")
    assert not files(alone)
    lines = [line for line in capfd.readouterr().err.splitlines() if "instead" in line]
    assert len(lines) == 1 and "'hiawatha'" in lines[0] and "KNET_DATA" in lines[0]


def test_silent_mirror_costs_little(alone, mirrors, monkeypatch):
    monkeypatch.setattr(download, "ANSWER", 0.2)
    mirrors[0].seconds = mirrors[1].seconds = 3.0
    offer(monkeypatch, *mirrors)
    start = time.perf_counter()
    with pytest.raises(data.Unavailable, match="no answer within 0.2 s"):
        data.text("hiawatha", standin=False)
    with pytest.raises(data.Unavailable):
        data.housing(standin=False)
    assert time.perf_counter() - start < 1.5


def test_damaged_file_is_refused(alone, monkeypatch, tmp_path):
    path = tmp_path / "mine" / "housing" / "housing.data"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"0.1 0.2\n")
    monkeypatch.setenv("KNET_DATA", str(tmp_path / "mine"))
    with pytest.raises(data.DataError, match="housing.data is damaged.*Delete it"):
        data.housing()
    assert path.read_bytes() == b"0.1 0.2\n"


def test_folder_that_cannot_be_written(alone, mirrors, monkeypatch, tmp_path):
    mirrors[0].answer = CONTENT
    offer(monkeypatch, mirrors[0])
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("KNET_DATA", str(tmp_path / "file"))
    assert data.text("hiawatha").encode() == CONTENT
    assert len(files(alone)) == 1


def test_unknown_text():
    with pytest.raises(data.DataError, match="hiawatha, shakespeare, tinyshakespeare"):
        data.text("odyssey")


def test_every_file_has_checksum_and_secure_urls():
    for file in download.FILES.values():
        assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 0
        assert all(url.startswith("https://") for url in file.urls)


# --- the real files

@real
def test_real_mnist():
    xtrn, ytrn, xtst, ytst = data.mnist(standin=False)
    assert xtrn.shape == (60000, 1, 28, 28) and xtst.shape == (10000, 1, 28, 28)
    assert xtrn.dtype == np.float32 and ytrn.dtype == np.int64
    assert ytrn[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] and ytst[:4].tolist() == [7, 2, 1, 0]
    assert np.bincount(ytst).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(xtrn.mean(dtype=float) - 0.13066) < 1e-5 and xtrn.max() == 1


@real
def test_real_housing():
    x, y = data.housing(standin=False)
    assert x.shape == (506, 13) and y.shape == (506, 1)
    assert x[0, 0] == 0.00632 and y[0, 0] == 24.0 and abs(y.mean() - 22.5328063) < 1e-6


@real
def test_real_texts():
    hiawatha = data.text("hiawatha", standin=False)
    assert len(hiawatha) == 214325 and len(set(hiawatha)) == 84
    assert len(data.text("shakespeare", standin=False)) == 5834393
    assert len(set(data.text("tinyshakespeare", standin=False))) == 65


# --- stand-ins

def test_digits_look_like_mnist():
    xtrn, ytrn, xtst, ytst = data.mnist(standin=True)
    assert xtrn.shape == (12000, 1, 28, 28) and xtst.shape == (2000, 1, 28, 28)
    assert xtrn.dtype == np.float32 and ytrn.dtype == np.int64 and set(ytst.tolist()) == set(range(10))
    assert xtrn.min() == 0 and xtrn.max() == 1 and 0.08 < xtrn.mean() < 0.16
    assert np.bincount(ytrn).min() > 1000
    # The nearest class mean is right about as often as on MNIST (82 %): neither trivial nor hopeless.
    means = np.stack([xtrn[ytrn == k].reshape(-1, 784).mean(0) for k in range(10)])
    flat = xtst.reshape(-1, 784)
    nearest = ((means**2).sum(1) - 2 * flat @ means.T).argmin(1)
    assert 0.6 < (nearest == ytst).mean() < 0.97


def test_standins_are_the_same_every_time():
    a, b = standin.digits(300, 7), standin.digits(300, 7)
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[0], standin.digits(300, 8)[0])
    np.testing.assert_array_equal(data.housing(standin=True)[0], data.housing(standin=True)[0])
    assert standin.prose() == standin.prose()


def test_arrays_belong_to_the_caller():
    data.mnist(standin=True).xtst[:] = 7
    assert data.mnist(standin=True).xtst.max() == 1


def test_prose(capfd):
    text = data.text("shakespeare", standin=True)
    assert "Beautiful is better than ugly." in text and len(text) > 50_000
    assert capfd.readouterr().out == ""


def test_regression_is_linear_with_noise():
    x, y = data.housing(standin=True)
    full = np.hstack([x, np.ones((506, 1))])
    rest = y - full @ np.linalg.lstsq(full, y, rcond=None)[0]
    assert rest.std() < 4.5 and y.std() > 1.2 * rest.std()


def test_idx():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    raw = bytes([0, 0, 8, 3]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
    np.testing.assert_array_equal(data._idx(gzip.compress(raw)), array)


# --- minibatch

X, Y = np.arange(30.0).reshape(10, 3), np.arange(10)


def test_minibatch_drops_the_rest():
    batches = list(minibatch(X, Y, 4))
    assert len(batches) == len(minibatch(X, Y, 4)) == 2
    np.testing.assert_array_equal(batches[1][0], X[4:8])
    np.testing.assert_array_equal(batches[1][1], Y[4:8])


def test_minibatch_partial():
    batches = list(minibatch(X, Y, 4, partial=True))
    assert [len(y) for _, y in batches] == [4, 4, 2] and len(minibatch(X, Y, 4, partial=True)) == 3


def test_minibatch_of_x_alone():
    assert [x.shape for x in minibatch(X, 5)] == [(5, 3), (5, 3)]
    assert list(minibatch(X, 20)) == [] and [len(x) for x in minibatch(X, 20, partial=True)] == [10]


def test_minibatch_shuffles_every_pass():
    knet.seed(1)
    batches = minibatch(np.arange(100), np.arange(100), 10, shuffle=True)
    first, second = ([np.asarray(x).tolist() for x, _ in batches] for _ in range(2))
    assert first != second
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(100))
    assert all((np.asarray(x) == np.asarray(y)).all() for x, y in batches)
    knet.seed(1)
    assert [np.asarray(x).tolist() for x, _ in batches] == first


def test_minibatch_converts():
    x, y = next(iter(minibatch(X, Y, 5, xtype=lambda a: a.astype(np.float32), xsize=(3, 1))))
    assert x.dtype == np.float32 and x.shape == (5, 3, 1) and y.dtype == Y.dtype
    x, _ = next(iter(minibatch(knet.array(X), knet.array(Y), 5)))
    assert type(x) is type(knet.array(X)) and x.shape == (5, 3)


@pytest.mark.parametrize("args, words", [((X, Y[:9], 4), r"10 instances and y has 9"), ((X, Y, 0), "positive integer"),
                                         ((X, Y), "positive integer"), ((X, Y, 2.5), "positive integer")])
def test_minibatch_errors(args, words):
    with pytest.raises(ValueError, match=words):
        minibatch(*args)


# --- progress

class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_passes_through():
    out = io.StringIO()
    assert list(progress(range(5), file=out)) == [0, 1, 2, 3, 4]
    assert re.fullmatch(r"\[100\.00%, 5/5, 00:00/00:00, \d+(\.\d\d)?i/s\]\n", out.getvalue())


def test_progress_bar_on_a_terminal():
    out = Terminal()
    for _ in progress(range(4), "hello", steps=1, file=out):
        pass
    frames = out.getvalue().rstrip("\n").split("\r")
    assert "┣" + " " * 20 + "┫ [0.00%, 0/4, 00:00/--:--" in frames[1]
    assert "┣" + "█" * 10 + " " * 10 + "┫ [50.00%, 2/4, " in frames[3]
    assert frames[-1].startswith("┣" + "█" * 20 + "┫ [100.00%, 4/4, ") and frames[-1].rstrip().endswith("hello")


def test_progress_can_leave_no_trace():
    out = Terminal()
    list(progress(range(4), file=out, keep=False))
    assert out.getvalue().endswith(" \r")
    out = io.StringIO()
    list(progress(range(4), file=out, keep=False))
    assert out.getvalue() == ""


def test_progress_message_is_a_function():
    seen = []

    def message(p):
        seen.append((p.curriter, p.currval))
        return f"at {p.currval}"

    out = io.StringIO()
    for _ in progress("abcd", message, steps=2, file=out):
        pass
    assert seen == [(2, "b"), (4, "d")] and "at d" in out.getvalue()


def test_progress_stop():
    done = []
    for x in progress(range(100), lambda p: stop if p.currval == 3 else "", steps=1, file=io.StringIO()):
        done.append(x)
    assert done == [0, 1, 2, 3]


def test_progress_of_unknown_length_and_break():
    out = io.StringIO()
    for x in progress(iter(range(10)), steps=1, file=out):
        if x == 2:
            break
    assert re.match(r"\[1, 00:00, ", out.getvalue()) and out.getvalue().count("\n") == 2
    with pytest.raises(TypeError, match="unknown"):
        len(progress(iter([])))
    assert len(progress(iter([]), total=7)) == 7


def test_progress_units():
    out = io.StringIO()
    p = progress(range(2), items=50, unit=" images", file=out)
    for _ in p:
        time.sleep(0.01)
    assert re.search(r"\d+(\.\d\d)? images/s\]", out.getvalue())
    assert p.left == 0 and p.rate > 100
    slow = progress(range(4), file=out)
    slow.curriter, slow._start = 1, time.perf_counter() - 4.0
    assert slow.status().startswith("[25.00%, 1/4, 00:04/00:16, 4.00s/i]") and 11.9 < slow.left < 12.1


def test_clock():
    assert clock(96.4) == "01:36" and clock(3696) == "1:01:36"
