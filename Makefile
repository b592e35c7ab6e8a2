# One vocabulary for people, hooks and CI. Needs python3, make and git; brings everything else itself.
SHELL := /bin/bash
.DEFAULT_GOAL := help

RECIPE ?= digits
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
SYNC := .venv/.classy-synced
RUN := $(UV) run --no-sync
# Some machines set PYTHONDONTWRITEBYTECODE; then every process would compile its libraries anew.
export UV_COMPILE_BYTECODE := 1
export UV_SYSTEM_CERTS ?= 1
unexport PYTHONDONTWRITEBYTECODE
export CLASSY_RECIPE ?= $(RECIPE)

.PHONY: help install run loop test lint format bench docs up down clean

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv

$(SYNC): pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --quiet --locked --all-extras
	@touch $@

install: $(SYNC) ## the environment, into .venv

run: install ## the whole loop under a real Airflow; RECIPE=clothing for another recipe
	$(RUN) classy run

loop: install ## the same loop without Airflow
	$(RUN) classy loop

test: install ## every test
	$(RUN) pytest -n 2 --dist loadfile

lint: install ## formatter, linter, types, import arrows
	$(RUN) pre-commit run --all-files

format: install ## put the code in order
	$(RUN) ruff check --fix --quiet . ; $(RUN) ruff format .

bench: install ## the long measurements, into var/bench
	@for bench in benchmarks/bench_*.py; do $(RUN) python -m benchmarks.$$(basename $$bench .py) || exit 1; done
	$(RUN) classy bench show

docs: install ## the tests that keep README and docs true
	$(RUN) pytest tests/test_docs.py

up: install ## Airflow, MLflow and the live server with their pages
	$(RUN) classy up

down: install ## stop them
	$(RUN) classy down

clean: ## remove the environment; state in var/ stays
	rm -rf .venv .uv
