# Each target works as the first command on a fresh machine: it creates .venv, installs into it, and goes on.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.attngen-installed
PYTEST_ARGS ?=
# Folders of tests of the compiler proper, whose tests run and compile no kernels, but for those marked so.
COMPILER := ir frontend analysis transform kernel facts tile stages targets schedule emit plan cache

.DEFAULT_GOAL := help
.PHONY: help install lint check units test demo clean

help:
	@echo "make check  install, lint and run the tests of the compiler that need no kernels, in less than two minutes"
	@echo "make test   install, lint and run all tests (PYTEST_ARGS=... is passed on)"
	@echo "make demo   install and compile three variants for sm90, with their explanations and figures"
	@echo "make lint   ruff, import-linter and pyright only"
	@echo "make clean  remove .venv and everything the tools have left behind"

install: $(STAMP)

# torch goes first, by itself, so that the second step cannot choose another build of it. A torch that pins its own Triton overrules the
# Triton of constraints.txt.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("attngen needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet "$$(grep '^torch==' constraints.txt)"
	@if $(BIN)/python -m pip show torch | grep -q '^Requires:.*triton'; \
	then grep -v '^triton==' constraints.txt; else cat constraints.txt; fi > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint $(VENV)/constraints.txt --editable '.[test,dev]'
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --isolated --line-length 100 --select E,F,W generated
	$(BIN)/ruff format --isolated --line-length 100 --check generated
	$(BIN)/lint-imports
	$(BIN)/pyright

check: $(STAMP)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint units

units: $(STAMP)
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=check $(BIN)/python -m pytest -q -n 2 --dist worksteal --no-kernels -m "not slow" \
		tests/test_rooms.py tests/test_knobs.py tests/test_catalog.py tests/test_pipeline.py tests/kernels/test_mutants.py \
		$(wildcard $(COMPILER:%=tests/%)) $(PYTEST_ARGS)

test: lint
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=ci $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

demo: $(STAMP)
	$(BIN)/python examples/demo.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find attngen tests examples benchmarks generated -name __pycache__ -type d -prune -exec rm -rf {} +
