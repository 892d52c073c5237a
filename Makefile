# Everything runs from .venv, which is built from pyproject.toml alone: a machine needs python3 >= 3.11 and make.
SHELL := /bin/sh
STAMP := .venv/.installed
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# As an installer does: tests start hundreds of processes, and some environments tell Python to write no bytecode itself.
COMPILE := $(BIN)/python -m compileall -q pgqueue tests bench
.DEFAULT_GOAL := help
.PHONY: help demo test check bench faults matrix db venv wheel clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## build .venv, start an embedded PostgreSQL and a worker, run real work, show it
	$(BIN)/pgqueue demo

test: $(STAMP) ## every test, on the embedded PostgreSQL (PGQUEUE_TEST_PG=15|16|17|18; ARGS="-k name")
	@$(COMPILE)
	$(PYTEST) $(ARGS)

check: $(STAMP) ## formatting, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(STAMP) ## measure the bars beside their floors, about three minutes (PART=workflows|schedules; LONG=1: all rows)
	@$(COMPILE)
	$(BIN)/python -m bench $(if $(LONG),--long) $(if $(PART),--part $(PART))

faults: $(STAMP) ## the fault tests again and longer (PGQUEUE_FAULTS_REPEAT, 10)
	@$(COMPILE)
	PGQUEUE_FAULTS_REPEAT=$${PGQUEUE_FAULTS_REPEAT:-10} $(PYTEST) -m faults --timeout 1800 $(ARGS)

matrix: $(STAMP) ## every test on PostgreSQL 15, 16, 17 and 18, as far as they install (ARGS as for test)
	$(BIN)/python scripts/matrix.py $(ARGS)

db: $(STAMP) ## start the embedded PostgreSQL of development and print how to reach it
	$(BIN)/pgqueue db start

venv: $(STAMP) ## only build .venv

wheel: $(STAMP) ## build the wheel and the source archive into dist/
	$(BIN)/python -m build --outdir dist

clean: ## remove .venv and everything that was built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The newest Python that starts and can make a venv: a version manager may put names on PATH that do not run.
$(STAMP): pyproject.toml
	@for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	    if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "pgqueue needs Python 3.11 or newer with its venv module (Debian: apt install python3-venv)" >&2; exit 1; fi; \
	echo "building .venv with $$($$found --version)"; \
	$$found -m venv .venv && $(BIN)/pip install -qq --disable-pip-version-check -e '.[dev,embedded]'
	@touch $@
