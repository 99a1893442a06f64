# make demo: install into .venv and run the small search.  make test: install, check, test (the fast
# part).  make e2e: the real command, end to end (QUICK=1: without the slow ones).
# make chaos: the same, broken on purpose.
# make matrix: the fast tests and a small search on every Python.  make test-lowest: the same with the
# lowest versions that pyproject.toml declares.  make constraints: choose versions for constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
UV := $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)

.PHONY: demo test unit fuzz e2e small-search chaos matrix test-lowest lint constraints install clean

demo: $(INSTALLED)
	$(BIN)/okddip-search --space digits.yaml $(if $(wildcard runs/digits/study.journal),--resume)

test: lint unit fuzz

unit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile \
		tests/unit tests/contract tests/golden

fuzz: $(INSTALLED)
	$(BIN)/pytest tests/fuzz  # in one process, which counts its cases

e2e: $(INSTALLED)
	$(BIN)/pytest tests/e2e $(if $(QUICK),-m "not slow")

small-search: $(INSTALLED)
	$(BIN)/pytest tests/e2e/test_search.py

chaos: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/chaos  # the kills beside the rest

matrix: $(INSTALLED)
	PATH="$$PATH:$(abspath $(BIN))" $(BIN)/python tests/matrix.py $(VERSIONS)

test-lowest: $(INSTALLED)
	$(PYTHON) -m venv build/lowest
	$(UV) pip install --quiet --python build/lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	$(MAKE) unit small-search BIN=build/lowest/bin

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/codespell
	$(BIN)/lint-imports --no-logo

constraints: | $(UV)  # those in the file stay, but for what UPGRADE=--upgrade finds
	$(UV) pip compile --quiet --universal --no-annotate --no-emit-index-url --extra dev $(UPGRADE) \
		--custom-compile-command 'make constraints' --output-file constraints.txt pyproject.toml

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt | $(UV)
	$(PYTHON) -m venv .venv
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

$(BIN)/uv:  # where none is on the PATH
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt uv

clean:
	rm -rf .venv build runs
