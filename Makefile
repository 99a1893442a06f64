# make demo: install into .venv and run the small search.  make test: install, check, test (the fast
# part).  make e2e: the real command, end to end (QUICK=1: without the slow ones).
# make chaos: the same, broken on purpose.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
UV := $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)

.PHONY: demo test unit fuzz e2e chaos lint install clean

demo: $(INSTALLED)
	$(BIN)/okddip-search --space digits.yaml $(if $(wildcard runs/digits/study.journal),--resume)

test: unit fuzz

unit: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile \
		tests/unit tests/contract tests/golden

fuzz: $(INSTALLED)
	$(BIN)/pytest tests/fuzz  # in one process, which counts its cases

e2e: $(INSTALLED)
	$(BIN)/pytest tests/e2e $(if $(QUICK),-m "not slow")

chaos: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/chaos  # the kills beside the rest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(if $(filter $(BIN)/%,$(UV)),$(BIN)/pip install --quiet --constraint constraints.txt uv)
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build runs
