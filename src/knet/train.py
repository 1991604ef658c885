"""Around the training loop: `minibatch` cuts data into batches, `progress` shows how far a loop is.

>>> import numpy as np
>>> for x, y in progress(minibatch(np.zeros((10, 3)), np.arange(10), 4)):
...     print(x.shape, y)
(4, 3) [0 1 2 3]
(4, 3) [4 5 6 7]
"""
import sys
import time

import knet

__all__ = ["minibatch", "progress", "Minibatch", "Progress", "stop"]

stop = object()  # a message callback of `progress` returns this to end the loop


def minibatch(x, y=None, batchsize=None, *, shuffle=False, partial=False, xtype=None, ytype=None, xsize=None,
              ysize=None):
    """Batches of x, or pairs of batches of x and y, along axis 0.

    x, y: arrays (NumPy or KnetArray) of the same length; `minibatch(x, 100)` batches x alone.
    batchsize: instances in a batch. A shorter rest at the end is left out unless `partial`.
    shuffle: take the instances in a new random order (from `knet.seed`) in every pass.
    xtype, ytype: functions that convert each batch, for instance `knet.array`.
    xsize, ysize: shape of a batch from axis 1 on, for instance (1, 28, 28).

    Returns an object to iterate over any number of times; `len` is the number of batches. To convert the batches only
    once, keep them: `list(minibatch(...))`. Raises ValueError where lengths or sizes do not fit.
    """
    if batchsize is None and isinstance(y, int):
        y, batchsize = None, y
    return Minibatch(x, y, batchsize, shuffle, partial, (xtype, ytype), (xsize, ysize))


class Minibatch:
    """What `minibatch` returns."""

    def __init__(self, x, y, batchsize, shuffle, partial, types, sizes):
        if not isinstance(batchsize, int) or batchsize < 1:
            raise ValueError(f"[minibatch] batchsize is {batchsize!r}. Give a positive integer.")
        if y is not None and len(x) != len(y):
            raise ValueError(f"[minibatch] x has {len(x)} instances and y has {len(y)}: shapes {tuple(x.shape)} and "
                             f"{tuple(y.shape)}. Axis 0 counts the instances of both.")
        self.x, self.y, self.batchsize = x, y, batchsize
        self.shuffle, self.partial, self.types, self.sizes = shuffle, partial, types, sizes

    def __len__(self):
        n = len(self.x)
        return -(-n // self.batchsize) if self.partial else n // self.batchsize

    def __iter__(self):
        n = len(self.x)
        order = None
        if self.shuffle:
            import numpy
            order = numpy.asarray(knet.permutation(n))
        for start in range(0, len(self) * self.batchsize, self.batchsize):
            which = slice(start, min(start + self.batchsize, n))
            if order is not None:
                which = order[which]
            x = self._part(0, self.x, which)
            yield x if self.y is None else (x, self._part(1, self.y, which))

    def _part(self, k, data, which):
        part = data[which]
        if self.sizes[k] is not None:
            part = part.reshape((part.shape[0], *self.sizes[k]))
        return part if self.types[k] is None else self.types[k](part)


def progress(iterable, message="", *, steps=0, seconds=None, keep=True, items=1, unit="i", total=None, file=None):
    """Pass through the items of an iterable and show how far it is.

    On a terminal a bar is redrawn in place:

        ┣█████████████████▎  ┫ [86.83%, 903/1040, 01:36/01:50, 9.42i/s] message

    that is: share done, steps done and in all, time passed and expected in all, speed. In a pipe or a file the part
    after the bar is written as plain lines instead, seldom.

    message: text, or a function of the `Progress` object that returns the text; called only when something is drawn,
    after the body of the loop. Where it returns `stop` the loop ends. steps, seconds: draw every so many steps, or
    seconds (1 on a terminal, 10 in a pipe). keep: leave the last state on the screen. items, unit: one step holds so
    many of this unit (speed is given in it). total: number of steps of an iterable that has no length. file: standard
    error if None.
    """
    return Progress(iterable, message, steps, seconds, keep, items, unit, total, file or sys.stderr)


class Progress:
    """What `progress` returns; to be iterated once.

    Attributes: curriter, steps done; currval, the item being worked on; elapsed, seconds since the start; left, seconds
    expected until the end (None when that is unknown); rate, units per second.
    """

    def __init__(self, iterable, message, steps, seconds, keep, items, unit, total, file):
        self.iterable, self.message, self.file = iterable, message, file
        self.total = total if total is not None else len(iterable) if hasattr(iterable, "__len__") else None
        self.terminal = hasattr(file, "isatty") and file.isatty()
        self.steps, self.keep, self.items, self.unit = steps, keep, items, unit
        self.seconds = (1.0 if self.terminal else 10.0) if seconds is None else seconds
        self.curriter, self.currval = 0, None
        self._start, self._width = time.perf_counter(), 0

    def __len__(self):
        if self.total is None:
            raise TypeError("[progress] the length of the iterable is unknown. Give total=.")
        return self.total

    @property
    def elapsed(self):
        return time.perf_counter() - self._start

    @property
    def left(self):
        if not self.total or not self.curriter:
            return None
        return self.elapsed / self.curriter * max(self.total - self.curriter, 0)

    @property
    def rate(self):
        return self.curriter * self.items / max(self.elapsed, 1e-9)

    def __iter__(self):
        self._start = time.perf_counter()
        due = self._start + self.seconds
        if self.terminal:
            self._draw()
        shown = 0
        try:
            for self.currval in self.iterable:
                yield self.currval
                self.curriter += 1
                if time.perf_counter() >= due or self.steps and self.curriter % self.steps == 0:
                    if self._draw() is stop:
                        break
                    shown, due = self.curriter, time.perf_counter() + self.seconds
            if self.keep and (shown != self.curriter or self.curriter == 0):
                self._draw()
        finally:
            if self.terminal:
                self.file.write("\n" if self.keep else "\r" + " " * self._width + "\r")
                self.file.flush()

    def _draw(self):
        message = self.message(self) if callable(self.message) else self.message
        text = f"{self.status()} {'' if message is stop else message}".rstrip()
        if not self.terminal:
            self.file.write(text + "\n")
        else:
            import shutil
            if self.total:
                text = f"┣{_bar(self.curriter / self.total)}┫ {text}"
            text = text[:shutil.get_terminal_size().columns - 1]
            self.file.write("\r" + text.ljust(self._width))
            self._width = len(text)
        self.file.flush()
        return message

    def status(self):
        """The part in brackets: `[86.83%, 903/1040, 01:36/01:50, 9.42i/s]`, or `[903, 01:36, 9.42i/s]`."""
        done, elapsed, rate = self.curriter, self.elapsed, self.rate
        if rate >= 1 or rate == 0:
            speed = f"{rate:.2f}{self.unit}/s" if rate < 1000 else f"{rate:.0f}{self.unit}/s"
        else:
            speed = f"{1 / rate:.2f}s/{self.unit.strip()}"
        if not self.total:
            return f"[{done}, {clock(elapsed)}, {speed}]"
        whole = clock(elapsed / done * self.total) if done else "--:--"
        return f"[{100 * done / self.total:.2f}%, {done}/{self.total}, {clock(elapsed)}/{whole}, {speed}]"


def clock(seconds):
    """Seconds as `01:36`, from an hour on as `1:01:36`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


def _bar(share, cells=20):
    eighths = int(min(share, 1) * cells * 8)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "")).ljust(cells)
