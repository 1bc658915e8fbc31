# `make demo` and `make test` do all the set-up themselves; they need Python 3.11 or newer with pip, and make.
PYTHON ?= python3
VENV := .venv
# Spinning OpenMP threads slow a step down several times on shared cores.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test check docs clean

demo: $(VENV)/core.stamp ## train, verify, sample and report, two to three minutes
	$(VENV)/bin/bedplate quickstart

test: $(VENV)/dev.stamp ## every test, about twelve minutes on two cores
	$(VENV)/bin/python -m pytest -n 2

check: $(VENV)/dev.stamp ## lint, format, types, sizes, docs and tests
	./check

docs: $(VENV)/dev.stamp
	$(VENV)/bin/zensical build --strict

clean:
	rm -rf $(VENV) site dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old; use make PYTHON=python3.11 (or newer)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# A stamp is older than pyproject.toml when a dependency may have changed. The development set holds the core one.
$(VENV)/core.stamp: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -e ".[dev]"
	@touch $@ $(VENV)/core.stamp
