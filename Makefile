# `make test` and `make demo` set everything up themselves: a virtual environment in .venv, torch first, then the package.
# Overridable: PYTHON (interpreter that creates .venv), PIP_FLAGS (options of `pip install`, e.g. for the small
# CPU build of torch: PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"), WORKERS, DEMO, ARGS.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PIP_FLAGS ?=
WORKERS ?= 2
DEMO ?= demo

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP := $(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

# One thread per process: the test workers already fill the cores, and several OpenMP teams on the same cores slow small
# tensors down by orders of magnitude. It must be set before torch is imported, hence here and not in Python.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help install test check demo bench format clean

help:
	@echo "make test    the whole test suite, doctests included"
	@echo "make demo    fit theophylline by closed form and by ODE, write a report; tables and pictures go to $(DEMO)/"
	@echo "make check   linter, formatting, types, import floors"
	@echo "make bench   benchmarks (options in ARGS)"
	@echo "make format  apply the formatter and the linter's safe fixes"
	@echo "make clean   remove .venv, caches and outputs"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found: install one or run make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(PY) || "$(PYTHON)" -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e ".[dev]"
	@touch $@

test: $(STAMP)
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) $(ARGS)

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)
	$(ONE_THREAD) $(PY) -m pytest -q tests/test_floors.py

demo: $(STAMP)
	@mkdir -p "$(DEMO)"
	$(ONE_THREAD) $(PY) models/theophylline.py --json "$(DEMO)/theophylline.json" --pictures "$(DEMO)"
	$(ONE_THREAD) $(PY) models/theophylline_report.py --json "$(DEMO)/theophylline_report.json" --pictures "$(DEMO)"
	@echo "Results and pictures are in $(abspath $(DEMO))/"

bench: $(STAMP)
	$(ONE_THREAD) $(PY) benchmarks/run.py $(ARGS)

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf $(VENV) "$(DEMO)" build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests models datasets benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
