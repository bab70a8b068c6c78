# Needs only Python (3.11 or newer) and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
DEMO ?= ndereg compare digits
PYTEST ?= -n 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
PINNED := $(PIP) install --quiet --disable-pip-version-check -c constraints.txt
CREATED := $(VENV)/.stamp-created
CORE := $(VENV)/.stamp-core
FULL := $(VENV)/.stamp-full
SOURCES := $(shell find src -name '*.py' 2>/dev/null)

.PHONY: demo test exhaustive lint docs clean
.DEFAULT_GOAL := demo

demo: $(CORE)
	$(BIN)/$(DEMO)

test: $(FULL)
	$(BIN)/python -m pytest $(PYTEST)

exhaustive: $(FULL)
	$(BIN)/python -m pytest $(PYTEST) -m exhaustive

lint: $(FULL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

docs: $(FULL)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site dist

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python 3.11 or newer, received $$($(PYTHON) -V); try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "could not create $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

# A checkout already installed for development sees its sources directly; otherwise the package is built and
# installed as a user would get it.
$(CORE): $(CREATED) pyproject.toml constraints.txt $(SOURCES)
	$(PINNED) $(if $(wildcard $(FULL)),-e,) .
	@touch $@

$(FULL): $(CREATED) pyproject.toml constraints.txt
	$(PINNED) -e '.[all,dev]'
	@touch $@
