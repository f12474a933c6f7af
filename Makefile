# `make run` starts the daemon with a sandbox; `make test` checks and tests everything.

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=
# Debian packages that some tests need.
TEST_PACKAGES ?= postgresql-15-plpgsql-check pgbouncer

BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check format soak bench setup setup-dev test-deps lock wheel clean

help:
	@echo "make run     the daemon with embedded PostgreSQL and a sandbox; Ctrl-C stops it"
	@echo "make test    every check and test"
	@echo "make check   format, lint of Python and SQL, types, import rules: seconds"
	@echo "make format  let ruff fix what it can"
	@echo "make soak    long random fault runs"
	@echo "make bench   measurements, half an hour; BENCH_SCALE=0.02 BENCH_PASSES=1 for a taste, PYTEST_ARGS='-k drain' for a part"
	@echo "make lock    lock what pyproject.toml asks for; UPGRADE=--upgrade takes the newest"

run: setup
	@exec $(BIN)/orchestrator run --sandbox

# Tests of seconds and milliseconds may fail beside others on a busy machine: what failed is tried once more, alone, and
# the run says so. What fails alone is broken.
test: test-deps check
	@$(BIN)/pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS) || { \
	  echo '!!! NOT ALL PASSED side by side; once more, alone, what failed:'; \
	  $(BIN)/pytest --last-failed --last-failed-no-failures none $(PYTEST_ARGS); }

check: setup-dev
	@$(BIN)/ruff format --check --quiet . || { echo 'formatting differs: make format'; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@said=$$($(BIN)/squawk schema.sql daemon/migrations/*.sql 2>&1) || { echo "$$said"; exit 1; }
	@said=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$said"; exit 1; }
	@$(BIN)/python -m tests.support.documents --check

format: setup-dev
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix .

soak: setup-dev
	@$(BIN)/pytest tests/faults tests/model -m soak --timeout 0 $(PYTEST_ARGS)

bench: setup-dev
	@$(BIN)/pytest tests/bench -m bench -s --timeout 0 $(PYTEST_ARGS)

test-deps: setup-dev
	@missing=; for package in $(TEST_PACKAGES); do \
	  dpkg -s "$$package" >/dev/null 2>&1 || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing$$missing for some tests"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null && exit 0; \
	fi; \
	echo "!!! NOT INSTALLED:$$missing. The tests that need them are SKIPPED. As root: apt-get install$$missing"

setup: $(BIN)/.installed
setup-dev: $(BIN)/.installed $(BIN)/.installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'Python 3.11 or newer is needed: apt install python3 (or make PYTHON=/path/to/python3.11 ...)'; exit 1; }
	@echo 'making .venv'
	@if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv; \
	elif $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv .venv; \
	else echo 'Python has no venv: apt install python3-venv'; exit 1; fi

# What is locked is installed by hash; the project itself is only linked.
define install
@echo "installing $(1): $$(grep -c '==' $(1)) packages, under a minute"
@if command -v uv >/dev/null; then installer='uv pip install --python $(BIN)/python'; \
else installer='$(BIN)/python -m pip install'; fi; \
{ $$installer --require-hashes -r $(1) && $$installer --no-deps --no-build-isolation -e .; } >.venv/setup.log 2>&1 || \
  { cat .venv/setup.log; echo 'the set-up failed: see above'; exit 1; }
@touch $@
endef

$(BIN)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	$(call install,requirements.lock)

$(BIN)/.installed-dev: requirements-dev.lock $(BIN)/.installed
	$(call install,requirements-dev.lock)

# They would install folders over ours, or over python-backoff's, without a word.
RIVALS := backoff python-daemon
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command 'make lock' -c .venv/rivals.txt $(UPGRADE)

lock: setup-dev
	@printf '%s<0\n' $(RIVALS) >.venv/rivals.txt
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	$(LOCK) pyproject.toml --group build -o requirements.lock && \
	$(LOCK) pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock

wheel: setup-dev
	@$(BIN)/hatchling build -t wheel

clean:
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
