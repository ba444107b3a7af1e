# make demo: compress a real network and report on it.   make test: run the tests.   make check: lint, types, imports.
# Each makes .venv first, with nothing but Python 3.11+ on the machine.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

demo: .venv/ready
	$(MAKE) --directory recipes/demo MLCOMPRESS=$(abspath $(BIN))/mlcompress

test: .venv/ready-dev
	$(BIN)/python -m pytest --numprocesses 2

check: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/ready-dev
	$(BIN)/mlcompress list --markdown > docs/methods.md
	$(BIN)/mlcompress list ops --markdown > docs/ops.md
	$(BIN)/python -c 'from pathlib import Path; from mlcompress import stages; from mlcompress.recipe import reference; \
	  reference.renew_file(Path("docs/recipes.md"), [stages.find(n).schema for n in (*stages.NAMES, "report")])'

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/ready-dev: .venv/ready
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	$(MAKE) --directory recipes/demo clean
	rm -rf .venv

.PHONY: demo test check docs clean
