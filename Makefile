# Everything a developer does. Needs Python 3.11 or newer and make; `make setup` brings the rest into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

export PATH := $(CURDIR)/.venv/bin:$(PATH)

PYTHON ?=
LOCOMO ?= ../shared/data/locomo
DATA ?= .mnemo
UPGRADE ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
BENCH := .venv-bench
SOURCES := libs services tests benchmarks examples docs protos deploy
# One more process than there are processors, since tests wait for servers as often as they compute; at most four.
WORKERS = $(shell $(BIN)/python -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
PYTEST = $(BIN)/pytest -q --numprocesses $(WORKERS) --dist loadfile
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header $(UPGRADE)
STUBS := find . -type f \( -name '*_pb2.py' -o -name '*_pb2.pyi' -o -name '*_pb2_grpc.py' -o -name '*_pb2_grpc.pyi' \)

.PHONY: help setup lock gen docs lint generated breaking imports types audit check test test-all eval eval-people bench \
	bench-scale bench-events demo serve up down clean

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED) ## makes .venv and installs the project and its tools

$(INSTALLED): deploy/locks/dev.txt pyproject.toml
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$${found:-}" ]; then \
	    echo 'setup: no Python 3.11 or newer found; name one: make setup PYTHON=/path/to/python3' >&2; exit 1; \
	  fi; \
	  echo "setup: .venv with $$("$$found" --version)"; \
	  "$$found" -m venv --clear .venv; \
	fi
	@echo 'setup: installing what deploy/locks/dev.txt names'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r deploy/locks/dev.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(INSTALLED) ## writes deploy/locks anew; UPGRADE=--upgrade takes newer versions
	$(LOCK) --extra otlp --extra parquet --group dev --output-file deploy/locks/dev.txt pyproject.toml
	$(LOCK) --extra otlp --extra redis --constraints deploy/locks/dev.txt --output-file deploy/locks/runtime.txt pyproject.toml
	$(LOCK) --extra otlp --extra redis --extra milvus --constraints deploy/locks/dev.txt --output-file deploy/locks/milvus.txt pyproject.toml
	$(LOCK) --group bench --constraints deploy/locks/dev.txt --output-file deploy/locks/bench.txt pyproject.toml
	echo hatchling | $(LOCK) --constraints deploy/locks/dev.txt --output-file deploy/locks/build.txt -

gen: $(INSTALLED) ## generates the stubs in libs/mnemocore and the reference pages from their sources
	$(BIN)/buf generate
	$(BIN)/python docs/generate_reference.py

docs: $(INSTALLED) ## generates docs/reference
	$(BIN)/python docs/generate_reference.py

lint: $(INSTALLED) ## ruff, buf lint, buf format, stubs as generated, contracts only grown
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@$(MAKE) generated breaking

generated: $(INSTALLED) ## the committed stubs are what the protos generate
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; mkdir "$$work/committed"; \
	$(BIN)/buf generate --output "$$work"; \
	(cd libs && $(STUBS) | tar -cf - -T -) | tar -xf - -C "$$work/committed"; \
	diff -rq "$$work/committed" "$$work/libs" \
	  || { echo 'generated: the stubs are not what the protos generate; run make gen' >&2; exit 1; }

# The contracts are compared with where this branch left main; on main itself, with the commit before.
breaking: $(INSTALLED) ## the contracts have only grown since main
	@head=$$(git rev-parse --verify --quiet HEAD 2>/dev/null || true); base=; \
	for ref in origin/main main HEAD~1; do \
	  found=$$(git merge-base HEAD "$$ref" 2>/dev/null || true); \
	  if [ -n "$$found" ] && [ "$$found" != "$$head" ]; then base=$$found; break; fi; \
	done; \
	if [ -z "$$base" ] || ! git cat-file -e "$$base:protos" 2>/dev/null; then \
	  echo 'breaking: skipped, there are no earlier contracts here'; exit 0; \
	fi; \
	work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	git log -1 --format='breaking: compared with %h' "$$base"; \
	git archive "$$base" protos buf.yaml | tar -xf - -C "$$work"; \
	$(BIN)/buf breaking --against "$$work"

imports: $(INSTALLED) ## who may import whom, and what is imported but not declared
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/deptry libs services

types: $(INSTALLED) ## mypy in strict mode
	$(BIN)/mypy --strict $(SOURCES)

audit: $(INSTALLED) ## known vulnerabilities in what deploy/locks names
	@$(BIN)/python deploy/audit.py deploy/locks/dev.txt

check: lint imports types audit ## everything that must pass before a change is merged, cheapest first

test: $(INSTALLED) ## the tests, without the slow ones
	$(PYTEST)

test-all: $(INSTALLED) ## all tests
	$(PYTEST) -m "not transformers"

eval: $(INSTALLED) ## measures the quality of recall on the LoCoMo conversations in LOCOMO
	@if [ ! -e "$(LOCOMO)" ]; then \
	  echo 'eval: no LoCoMo data at $(LOCOMO); name its folder: make eval LOCOMO=path/to/locomo' >&2; exit 1; \
	fi
	$(BIN)/python -m benchmarks.locomo --data "$(LOCOMO)"

eval-people: $(INSTALLED) ## measures the quality of recall on a generated world of people
	$(BIN)/python -m benchmarks.people

bench: $(INSTALLED) ## measures speed
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.hypervectors
	$(BIN)/python -m benchmarks.overhead

$(BENCH)/.installed: deploy/locks/bench.txt | $(INSTALLED)
	@echo 'bench-scale: installing what deploy/locks/bench.txt names into $(BENCH)'
	@$(BIN)/python -m venv --clear $(BENCH)
	@$(BENCH)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r deploy/locks/bench.txt
	@touch $@

bench-scale: $(BENCH)/.installed ## measures search at growing sizes, beside other stores
	PYTHONPATH="$(CURDIR)/libs:$(CURDIR)/services" $(BENCH)/bin/python -m benchmarks.scale

bench-events: $(INSTALLED) ## measures the event-bus on PostgreSQL and on Redis, beside the engines themselves
	GRPC_ENABLE_FORK_SUPPORT=false $(BIN)/python -m benchmarks.events

demo: setup ## keeps a conversation and these pages, asks questions, prints the answers
	$(BIN)/python examples/demo.py

serve: $(INSTALLED) ## runs all services in one process, with its data in DATA
	$(BIN)/mnemo serve --data-dir "$(DATA)"

up: $(INSTALLED) ## runs each service in its own process, with the data in DATA
	@if [ -e "$(DATA)/up.pid" ] && kill -0 "$$(cat "$(DATA)/up.pid")" 2>/dev/null; then \
	  echo 'up: runs already; end it with make down' >&2; exit 1; \
	fi
	@mkdir -p "$(DATA)"
	@nohup $(BIN)/mnemo up --data-dir "$(DATA)" >"$(DATA)/up.log" 2>&1 </dev/null & echo $$! >"$(DATA)/up.pid"
	@for _ in $$(seq 150); do \
	  if grep -q 'listens on' "$(DATA)/up.log"; then \
	    head -n 2 "$(DATA)/up.log"; echo 'stop it with make down, its log is $(DATA)/up.log'; exit 0; \
	  fi; \
	  kill -0 "$$(cat "$(DATA)/up.pid")" 2>/dev/null || break; \
	  sleep 0.5; \
	done; \
	echo 'up: did not become ready; the end of $(DATA)/up.log:' >&2; tail -n 20 "$(DATA)/up.log" >&2; exit 1

down: ## ends what make up started
	@if [ ! -e "$(DATA)/up.pid" ]; then echo 'down: nothing runs'; exit 0; fi; \
	pid=$$(cat "$(DATA)/up.pid"); kill "$$pid" 2>/dev/null || true; \
	for _ in $$(seq 120); do \
	  if ! kill -0 "$$pid" 2>/dev/null; then rm -f "$(DATA)/up.pid"; echo 'down: ended'; exit 0; fi; \
	  sleep 0.5; \
	done; \
	echo "down: process $$pid still runs after 60 seconds" >&2; exit 1

clean: ## removes what the build made; data is kept
	rm -rf .venv $(BENCH) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
