# Everything runs in .venv, which is made once and renewed when pyproject.toml or csrc/ changes.
#   make demo         install, then answers from the bundled model: first offline, then over HTTP
#   make test         install the test tools, lint, run the tests
#   make help         the rest

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PYTEST := $(BIN)/python -m pytest $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-slow test-gpu lint format docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Kvasir needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

NATIVE_SOURCES := setup.py $(wildcard csrc/*/*.cpp csrc/*/*.h)

$(VENV)/.installed: pyproject.toml $(NATIVE_SOURCES) | $(BIN)/python
	$(PIP) install $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(NATIVE_SOURCES) | $(BIN)/python
	$(PIP) install $(PIP_ARGS) -e '.[test,dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed  ## install, then answers from the bundled model, offline and over HTTP
	$(BIN)/python examples/quickstart.py
	$(BIN)/python examples/serve_and_ask.py

serve: $(VENV)/.installed  ## install, then serve the bundled model on port 8000
	$(BIN)/kvasir serve

test: lint  ## install the test tools, lint, run the tests
	$(PYTEST) tests
	@echo "without the native library:"
	KVASIR_NATIVE=0 KVASIR_REQUIRE_NATIVE= $(PYTEST) tests/ops tests/attention tests/e2e/test_equal_transformers.py
	@if [ -d tests/interpret ]; then echo "kernels, interpreted:"; TRITON_INTERPRET=1 $(PYTEST) tests/interpret; fi
	@if [ -d tests/aot ]; then echo "kernels, compiled for a card without one:"; $(PYTEST) tests/aot; fi

test-slow: $(VENV)/.installed-test  ## the slow tests
	$(PYTEST) -m slow tests

test-gpu: $(VENV)/.installed-test  ## the tests that need a card
	$(PYTEST) tests/gpu

lint: $(VENV)/.installed-test  ## format check, ruff, mypy, ranks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test  ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-test  ## regenerate the generated pages
	$(BIN)/python -m kvasir.config.docs docs/configuration.md

clean:  ## remove the environment and caches
	rm -rf $(VENV) build dist *.egg-info kvasir/_native.so .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
