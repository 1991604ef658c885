"""The documentation is true: every block of Python in it runs and prints what it says, and so does every docstring."""
import doctest
import importlib
import re
import sys
from pathlib import Path

import pytest

import knet
from knet import _core
from knet.ops import REGISTRY

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = ("knet", "knet.data", "knet.grad", "knet.init", "knet.inspect", "knet.optim", "knet.train", "knet.tree")

sys.path.insert(0, str(ROOT / "docs"))
import make_reference  # noqa: E402


@pytest.fixture(autouse=True)
def fresh():
    """Pages are written for a new interpreter: nothing pending, no plans, seed 0, default settings."""
    _core.run()
    knet.trim()
    knet.seed(0)
    threads = knet.config.threads
    yield
    knet.config.threads = threads


def run(examples, name, names, line=0):
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    test = doctest.DocTest(examples, names, name, name, line, None)
    test.globs = names  # not a copy: the blocks of a page go on where the last one ended
    said = []
    runner.run(test, out=said.append, clear_globs=False)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_blocks_of_a_page_run(page):
    text, names = page.read_text(), {"__name__": page.stem}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        code, line = block[1], text.count("\n", 0, block.start(1))
        if code.startswith(">>>"):
            run(doctest.DocTestParser().get_examples(code, page.name), page.name, names, line)
        else:
            exec(compile("\n" * line + code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_files_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:src|native|examples|docs|tests|benchmarks)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page):
    """`make x` is a target, and `python examples/x.py --option` an option of that script (or the beginning of one)."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for command in re.findall(r"^(?:make|python examples/).*$", page.read_text(), re.M):
        words = command.partition("#")[0].split()
        if words[0] == "make":
            assert words[1] in targets, command
        else:
            script = (ROOT / words[1]).read_text()
            assert all(f'"{w}' in script for w in words if w.startswith("--")), command


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_of_modules(name):
    module = importlib.import_module(name)
    names = {**vars(knet), **vars(module), "knet": knet}
    for test in doctest.DocTestFinder(recurse=name != "knet").find(module, globs=names):
        run(test.examples, test.name, test.globs)


def test_docstrings_of_operations():
    import numpy as np
    for name, entry in REGISTRY.items():
        if entry.public:
            run(doctest.DocTestParser().get_examples(getattr(knet, name).__doc__, name), name, {"knet": knet, "np": np})


def test_every_public_name_has_a_docstring_of_sentences():
    for name in make_reference.public_names():
        doc = getattr(knet, name).__doc__
        assert doc and make_reference.first_sentence(doc).endswith((".", "?")), name


def test_the_reference_is_up_to_date():
    assert (ROOT / "docs" / "reference.md").read_text() == make_reference.text(), "run: python docs/make_reference.py"
