# make demo: train, sample, measure and report on bundled digits.   make test: run the tests.
# Both do all set-up themselves, in .venv, and use again what is there.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-warn-conflicts --constraint constraints.txt
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test lint docs clean
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/reverie demo

# The whole suite in two processes of one thread each; what ARGS choose in one.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(or $(ARGS),-n 2 --dist worksteal)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.installed-docs
	rm -rf docs/api/generated
	$(BIN)/python -m sphinx -E -W --keep-going -q -j auto -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) docs/_build dist build .pytest_cache .ruff_cache .hypothesis

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Reverie needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}. Try: make PYTHON=python3.12" if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(INPUTS) | $(BIN)/pip
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(INPUTS) | $(BIN)/pip
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps azula
	$(PIP) --no-deps --upgrade --target $(VENV)/oracles torch-fidelity
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(INPUTS) | $(BIN)/pip
	$(PIP) --editable '.[docs]'
	@touch $@ $(VENV)/.installed
