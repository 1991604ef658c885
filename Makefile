# make demo         train LeNet on MNIST and draw what it learned
# make test         build, and run the tests
# make test-native  build and run the tests of the engine without Python
# make test-all     all of these, and the slow ones: accuracies on real data (KNET_DATA names the folder that has it)
# make peers        install the frameworks that the benchmarks compare with (large)
# make bench        measure, beside those of them that are installed
# make sanitize     run the tests under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer
# make clean        remove everything that was built

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
SOURCES := CMakeLists.txt pyproject.toml $(shell find src native -type f ! -name '*.pyc' ! -path '*/__pycache__/*')

.PHONY: demo test test-native test-all peers bench sanitize build clean

demo: $(VENV)/installed
	$(PY) examples/demo.py

test: $(VENV)/installed
	$(PY) -m pytest

test-native: $(VENV)/tools
	$(VENV)/bin/cmake -S . -B build/native -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV)/bin/ninja) \
	  -DPython_EXECUTABLE=$(abspath $(PY))
	$(VENV)/bin/cmake --build build/native --target test_native

test-all: $(VENV)/installed test-native
	$(PY) -m pytest -m "slow or not slow"

peers: $(VENV)/installed
	$(PY) -m pip install --quiet --disable-pip-version-check '.[bench]' --no-build-isolation

bench: $(VENV)/installed
	for file in benchmarks/*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

sanitize: $(VENV)/installed
	PY=$(PY) .ci/sanitize address,undefined
	PY=$(PY) .ci/sanitize thread

build: $(VENV)/installed

# What the build needs lives in the environment itself, so that a rebuild compiles only what has changed.
$(VENV)/tools: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "knet needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check cmake ninja $$($(PY) -c \
	  'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	@touch $@

$(VENV)/installed: $(VENV)/tools $(SOURCES)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation '.[examples,test]'
	@touch $@

clean:
	rm -rf $(VENV) build demo .pytest_cache .hypothesis
