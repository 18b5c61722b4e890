# Shoal needs Python 3.11 or newer and make; everything else lands in .venv.
#
#   make quickstart   install, then five acts on real data, in under two minutes
#   make install      the package and its pinned dependencies into .venv
#   make check        format, lint, types, import layers, documentation: what CI runs first
#   make test         the whole test suite
#   make bench        Shoal against its peers, written to docs/benchmarks.md
#   make protocol     the gRPC messages, from their description
#   make clean        remove what the other targets made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

# Each stamp says that one list of pins is installed; a changed list installs again.
CREATED := $(VENV)/.created
RUN := $(VENV)/.run
WARM := $(VENV)/.warm
DEV := $(VENV)/.dev
BENCH := $(VENV)/.bench
CLIENTS := $(VENV)-clients/.installed
PEERS := $(VENV)-peers/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check format bench protocol clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^Each stamp/,$$d'

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Shoal needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUN): requirements/run.txt pyproject.toml $(CREATED)
	@echo "Installing what Shoal needs (a minute or so the first time)"
	@$(PIP) install --require-hashes --requirement requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(WARM): $(RUN)
	@echo "Compiling the kernels for this machine (once)"
	@$(BIN)/shoal warm >$@.log && mv $@.log $@

$(DEV): requirements/dev.txt $(RUN)
	@echo "Installing what the checks and the tests need"
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

$(BENCH): requirements/bench.txt $(DEV)
	@echo "Installing the peers of the benchmarks"
	@$(PIP) install --require-hashes --requirement requirements/bench.txt
	@touch $@

# Clients and peers pin libraries of their own, so each kind has an environment of its own.
$(CLIENTS) $(PEERS): $(VENV)-%/.installed: requirements/%.txt $(CREATED)
	@echo "Installing $* of other makers into $(VENV)-$*"
	@$(BIN)/python -m venv $(VENV)-$*
	@$(VENV)-$*/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes \
		--requirement $<
	@touch $@

install: $(WARM)
	@echo "Installed: $(BIN)/shoal"

quickstart: $(WARM)
	@$(BIN)/shoal quickstart

test: $(DEV) $(WARM) $(CLIENTS)
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadgroup --quiet

check: $(DEV)
	@$(BIN)/ruff format --check --quiet || { echo "Run: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python -m pytest --quiet tests/test_docs.py

format: $(DEV)
	@$(BIN)/ruff format --quiet
	@$(BIN)/ruff check --quiet --fix

bench: $(BENCH) $(WARM) $(PEERS)
	@$(BIN)/python -m benchmarks

protocol: $(DEV)
	@$(BIN)/python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src src/shoal/server/grpc/inference.proto

clean:
	@rm -rf $(VENV) $(VENV)-clients $(VENV)-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
