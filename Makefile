# `make demo` and `make test` set everything up by themselves, once, in .venv.
.PHONY: demo test lint setup

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

demo: $(INSTALLED)
	$(BIN)/nasdeploy run digits

# One thread a process, so that the two test processes do not fight over the cores. Runtimes other than ONNX Runtime have
# a process of their own: after they were loaded, test processes have died now and then. Tests that measure time run
# alone; pytest exits with 5 where there are none.
RUNTIMES := tests/runtimes tests/conformance/test_runtimes.py tests/conformance/test_runtimes_on_blocks.py \
	tests/conformance/test_formats.py tests/conformance/test_exported.py

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not latency" $(RUNTIMES:%=--ignore=%)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not latency" $(RUNTIMES)
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
