# Needs python3 (3.11 or newer) and make. Everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed there; each is done again when pyproject.toml changes.
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
# They wait more than they compute. A file of tests stays with one process: what it starts
# (brokers, RabbitMQ) is started once.
PYTEST := $(BIN)/pytest --numprocesses 3 --dist loadfile

# Some hundred processes import the same: without what is kept of the first, each compiles all.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check test-all bench bench-long wheel clean help

help:
	@echo "make run       start the broker with deploy/topology.yaml on this machine's port 5672 (FLAGS='--listen ...')"
	@echo "make test      the tests, without those that are long or need other languages"
	@echo "make check     format, lint, types, tests"
	@echo "make test-all  all tests"
	@echo "make bench     measure beside RabbitMQ and GarageMQ, as far as they are installed"
	@echo "make bench-long  the measurements that take ten million messages"
	@echo "make wheel     build dist/leveret-*.whl"

# For this machine only, unless told otherwise: the sample has a user with a known password.
run: $(RUN)
	exec $(BIN)/leveret serve --topology deploy/topology.yaml \
	  $(if $(findstring --listen,$(FLAGS)),,--listen 127.0.0.1:5672) $(FLAGS)

test: $(DEV)
	$(PYTEST) -m "not long and not foreign" $(TESTS)

check: $(DEV)
	tests/check
	$(MAKE) -s test

test-all: $(DEV)
	$(PYTEST) $(TESTS)

bench: $(DEV)
	$(BIN)/python -m tests.bench $(FLAGS)

# Ten million messages in one queue: 25 GB of disk and a quarter of an hour.
bench-long: $(DEV)
	$(BIN)/python -m tests.bench --group long $(FLAGS)

wheel: $(DEV)
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(RUN): pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(DEV): pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,clients]'
	@touch $@ $(RUN)

# Debian has venv in a package of its own, and without it leaves half an environment behind.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Leveret needs Python 3.11 or newer (PYTHON=... chooses one)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: this Python cannot create environments; on Debian and Ubuntu, as root:" >&2; \
	  echo "  apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
