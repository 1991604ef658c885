"""Looking inside: plans in words, memory, settings."""
from . import _core


def explain(f, *args, stages=False, **kwargs):
    """Call `f(*args, **kwargs)` and tell what the engine ran for it.

    Returns an `Explanation`: printing it shows, for each program that ran, its kernels with what was fused into them,
    bytes read and written, peak memory, the source lines that it came from, and whether it was planned anew and why.
    `.text("simplified")` shows a stage: recorded, differentiated, simplified, batched, fused, placed or program;
    `stages=True` prints them all. `.result` is what `f` returned.

    >>> import knet
    >>> seen = explain(lambda x: knet.tanh(x * 2 + 1), knet.ones(3))
    >>> seen.kernels, seen.result.shape
    (1, (3,))
    """
    runs = []
    lines = _core.keep_lines()
    _core.run()  # what was pending before is not part of the answer
    _core.set_keep_lines(True)
    _core.report(runs.append)
    try:
        result = f(*args, **kwargs)
        _core.run()
    finally:
        _core.report(None)
        _core.set_keep_lines(lines)
    return Explanation(result, runs, stages)


STAGES = ("recorded", "differentiated", "simplified", "batched", "fused", "placed", "program")


class Explanation:
    """What `explain` saw: one entry of `runs` (a dictionary) for each program that ran, and the function's `result`."""

    def __init__(self, result, runs, stages=False):
        self.result = result
        self.runs = runs
        self.stages = stages

    @property
    def kernels(self):
        """Kernels that were run, in all programs."""
        return sum(run["kernels"] for run in self.runs)

    def text(self, stage="program"):
        """One stage of every program, as text."""
        if stage not in STAGES:
            raise ValueError(f"[explain] no stage {stage!r}. The stages are {', '.join(STAGES)}.")
        return "\n".join(run[stage] for run in self.runs)

    def __str__(self):
        if not self.runs:
            return "nothing ran: every value was there already"
        parts = []
        for i, run in enumerate(self.runs):
            state = f"planned anew: {run['difference']}" if run["fresh"] else "a known plan"
            parts.append(f"program {i + 1} of {len(self.runs)} ({state})")
            if self.stages:
                parts += [f"-- {stage}\n{run[stage].rstrip()}" for stage in STAGES]
            else:
                parts.append(run["program"].rstrip())
            where = sorted({f"{file}:{line}" for file, line in run["lines"].values()})
            if where:
                parts.append("from " + ", ".join(where))
        return "\n".join(parts)

    __repr__ = __str__


def show_bytes(n):
    """12345 as '12.3 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000


class Memory(dict):
    """What `memory` returns: a dictionary that prints itself in words."""

    def __repr__(self):
        return (f"memory: {show_bytes(self['live'])} live, peak {show_bytes(self['peak'])}, "
                f"{show_bytes(self['pooled'])} pooled for reuse\n"
                f"plans: {self['plans']} kept in {show_bytes(self['plan_bytes'])}, {self['plan_hits']} hits, "
                f"{self['plan_misses']} misses, {self['evicted']} evicted; {self['templates']} derivative templates; "
                f"{self['pending']} operations pending")


class Estimate(dict):
    """What `memory(f, ...)` returns: a dictionary that prints itself in words."""

    def __repr__(self):
        return (f"peak {show_bytes(self['peak'])}: {show_bytes(self['held'])} held already, working space "
                f"{show_bytes(self['arena'])}, results {show_bytes(self['results'])}; {self['kernels']} kernels")


def memory(f=None, *args, **kwargs):
    """Bytes in arrays now (`live`), at most so far (`peak`), kept for reuse (`pooled`), and what is known of plans.

    A dictionary: live, peak, pooled, plan_bytes (bytes); plans, templates and pending (operations) now; plan_hits,
    plan_misses, runs, launched (beside the recording of the next step) and evicted since the start.

    With a function: what `f(*args, **kwargs)` will need, before it runs. The call is recorded and planned; only values that f
    itself reads, as in `if loss < 3`, are computed. A dictionary: peak (bytes of all arrays at the worst moment, if nothing
    is written in place), held (bytes of arrays that are there already), arena (working space of a program), results
    (bytes that it leaves), kernels. The plan is kept: the call that follows finds it.

    >>> import knet
    >>> x = knet.ones(1000) + 1
    >>> memory()["pending"] > 0
    True
    >>> memory(lambda x: knet.exp(x) @ x, x)["results"]
    4
    """
    if f is None:
        return Memory(_core.memory())
    _core.run()
    held = _core.memory()["live"]
    _core.plan_only(True)
    try:
        result = f(*args, **kwargs)
        _core.run()
        programs = _core.estimates()
    finally:
        _core.plan_only(False)
    del result
    _core.run()  # forgets what nobody holds any more
    arena, results, kernels = max(programs, key=lambda p: p[0] + p[1], default=(0, 0, 0))
    return Estimate(peak=held + arena + results, held=held, arena=arena, results=results, kernels=kernels)


def trim():
    """Give memory that is kept for reuse back to the system, and forget all plans."""
    _core.clear_plans()
    _core.trim()


class _Setting:
    def __init__(self, get, set, doc):
        self._get, self._set, self.__doc__ = get, set, doc

    def __get__(self, obj, cls=None):
        return self if obj is None else self._get()

    def __set_name__(self, cls, name):
        self._name = name

    def __set__(self, obj, value):
        try:
            self._set(value)
        except TypeError as e:
            if str(e).startswith("["):
                raise
            raise TypeError(f"[config] {self._name} cannot be {value!r}. {self.__doc__}") from None


class _Config:
    """Settings, read and written as attributes: `knet.config.threads = 2`."""
    __slots__ = ()

    threads = _Setting(_core.threads, _core.set_threads, "Threads that compute, the caller included.")
    dtype = _Setting(_core.default_dtype, _core.set_default_dtype, "The dtype of Python floats and of new arrays.")
    lines = _Setting(_core.keep_lines, _core.set_keep_lines, "Note the source line of every operation.")
    pending = _Setting(_core.pending_limit, _core.set_pending_limit, "Operations that may wait before they are run.")
    pending_bytes = _Setting(_core.pending_bytes, _core.set_pending_bytes, "Bytes of results and operands that may wait.")
    plan_bytes = _Setting(_core.plan_cache_bytes, _core.set_plan_cache_bytes, "Bytes that the plan cache may take.")

    def __setattr__(self, name, value):
        if name not in _settings:
            raise AttributeError(f"[config] no setting {name!r}. The settings are {', '.join(_settings)}.")
        super().__setattr__(name, value)

    def __repr__(self):
        return "\n".join(f"{name} = {getattr(self, name)!r}  # {getattr(_Config, name).__doc__}" for name in _settings)


_settings = [name for name, x in vars(_Config).items() if isinstance(x, _Setting)]
config = _Config()
