# Everything runs from .venv, which is made where it is missing: python3 (3.11 or later) and make are enough.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup demo test check
setup: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("violet needs Python 3.11 or later, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/violet demo

test: setup
	$(BIN)/python -m pytest

# mypy needs a folder with the package's name above its files: the root is the package, so a link stands in for it.
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/types && ln -sfn "$(CURDIR)" .venv/types/violet
	cd .venv/types && MYPYPATH=. ../bin/mypy --config-file violet/pyproject.toml -p violet
	$(BIN)/lint-imports
