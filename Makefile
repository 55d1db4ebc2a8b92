# Each target makes .venv and installs what it needs from constraints.txt; nothing else has to be there but
# Python 3.11 or newer, pip and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

# As it was typed: neither make nor the shell may read a link's $, & or quotes. ARGS is words for the shell.
export TIDEGATE_SOURCE := $(value SOURCE)

.DEFAULT_GOAL := help
.PHONY: help demo run serve test test-ci test-full lint bench docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
		printf '  make %-10s %s\n' "$$name" "$$what"; done

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## ingest real media from an origin that drops, stalls and fails
	$(BIN)/python -m deployments.demo

run: $(STAMP)  ## make run SOURCE=https://… [ARGS='--profile modern']
	@test -n "$$TIDEGATE_SOURCE" || { echo "usage: make run SOURCE=link-or-path [ARGS='…']"; exit 2; }
	@$(BIN)/python -m flows.run $(ARGS) -- "$$TIDEGATE_SOURCE"

serve: $(STAMP)  ## a local Prefect server with UI, all deployments and a worker [ARGS='--port 4300']
	@$(BIN)/python -m deployments.serve $(ARGS)

test: $(STAMP)  ## the tests, in 8 minutes on 2 cores
	$(PYTEST) -n 3 -m "(first or not ci) and not slow"

test-ci: $(STAMP)  ## the tests that start whole sites, browsers, databases, and the command again and again
	$(PYTEST) -n 2 -m "ci and not first and not slow"

test-full: $(STAMP)  ## all tests, with the long sweeps
	$(PYTEST) -n 2

lint: $(STAMP)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## the benchmarks, each as a ratio against a peer in the same run
	$(BIN)/python -m benchmarks

docs: $(STAMP)  ## the tables in docs/ that are made from the code
	$(BIN)/python docs/tables.py

clean:  ## remove what make has made
	rm -rf $(VENV) .cache build dist
