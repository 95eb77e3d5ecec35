# `make demo` and `make test` set everything up by themselves, once, in .venv.
.PHONY: demo test lint setup

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

demo: $(INSTALLED)
	$(BIN)/nasdeploy run digits

# One thread a process, so that the two test processes do not fight over the cores. Tests that measure time run alone;
# pytest exits with 5 where there are none.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not latency"
	$(BIN)/pytest -m latency || [ $$? -eq 5 ]

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv (once, a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
