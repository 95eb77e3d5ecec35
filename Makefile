# `make demo` and `make test` set everything up by themselves, once, in .venv.
.PHONY: demo docs test quick lowest lint style types ordinary runtimes beside latency release-check setup

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
OLDEST := .venv/oldest/installed
LOWEST := .venv/lowest

# Tests start Python hundreds of times: without bytecode each start would compile pydantic anew, half of a short command.
export PYTHONDONTWRITEBYTECODE :=

demo: $(INSTALLED)
	$(BIN)/nasdeploy run digits

# Pages of docs/, into site/, which is opened at site/index.html. Warnings are errors.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo Open site/index.html

# One thread a process, so that the test processes do not fight over the cores. Runtimes other than ONNX Runtime, and exports
# for them, have a process of their own, lest one that crashes takes all other results with it. It runs beside the others, and
# mypy before it: many tests wait for other processes, which leaves a seventh of two cores idle. These tests are about a
# third of all, so that three processes end together. Tests that measure time run alone; pytest exits with 5 where there are
# none.
RUNTIMES := tests/runtimes tests/exporting tests/conformance/test_runtimes.py tests/conformance/test_runtimes_on_blocks.py \
	tests/conformance/test_formats.py tests/conformance/test_exported.py tests/conformance/test_signals.py \
	tests/conformance/test_oldest.py tests/conformance/test_compared_runtimes.py tests/conformance/test_offline.py

test: style
	$(MAKE) --no-print-directory -j2 ordinary beside
	$(MAKE) --no-print-directory latency

beside:
	$(MAKE) --no-print-directory --keep-going --output-sync=target types runtimes

# What catches most in about two minutes: no whole runs, no exports, no searches, no processes of their own.
QUICK := tests/test_layers.py tests/test_sizes.py tests/test_torch_free.py tests/test_recipe.py tests/core tests/blocks \
	tests/spaces tests/store tests/tasks tests/nn tests/supernet tests/searching tests/data tests/latency \
	tests/initial_recipe tests/conformance/test_spaces.py \
	tests/training/test_sandwich.py tests/training/test_losses_of.py tests/training/test_optimizer.py \
	tests/workflows/test_request.py tests/cli/test_main.py

QUICKLY := -q -n 2 --dist worksteal -m "not slow and not latency" $(QUICK) \
	--ignore=tests/nn/test_compiled.py --ignore=tests/searching/strategies --ignore=tests/searching/predictors

quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(QUICKLY)

# The same with the oldest versions that pyproject.toml allows, which show what its lower bounds are worth.
lowest: $(LOWEST)/installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest $(QUICKLY)

ordinary: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not latency" $(RUNTIMES:%=--ignore=%)

runtimes: $(INSTALLED) $(OLDEST)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 1 -m "not latency" $(RUNTIMES)

# Only the files that have such tests are collected, which takes as long as they do.
latency: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m latency $$(grep -rl --include='test_*.py' 'mark\.latency' tests) || [ $$? -eq 5 ]

lint: style types

style: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# What a release consists of, in dist/, tried with no repository beside it; see CONTRIBUTING.md.
release-check: style types
	@grep -q "^## \[$$($(BIN)/python -c 'import nasdeploy; print(nasdeploy.__version__)')\] - " CHANGELOG.md \
		|| { echo "CHANGELOG.md has no section of this version"; exit 1; }
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	NASDEPLOY_DIST=dist OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/test_wheel.py tests/test_changelog.py tests/test_lowest.py

setup: $(INSTALLED)

# uv takes half of pip's processor time, and all cores. It is told what further indexes pip knows, and links files from a
# cache of its own, which goes. Where it cannot be had, or does not come to an end, pip installs.
UV_INSTALL = $(BIN)/uv pip install --quiet --system-certs --cache-dir .venv/cache --python $(BIN)/python \
	--index-strategy unsafe-best-match $$($(BIN)/pip config get global.extra-index-url 2>/dev/null | sed 's/[^ ][^ ]*/--index &/g')
PIP_INSTALL = $(BIN)/pip install --quiet --no-compile --disable-pip-version-check

# Modules are compiled when they are first imported: of 7 GB most never are. What is compiled has to be kept then, or
# every process would compile PyTorch anew, which takes 12 s.
export PYTHONDONTWRITEBYTECODE :=
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv (once, a few minutes)"
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -c constraints.txt uv && $(UV_INSTALL) -c constraints.txt -e '.[dev]' \
		|| $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@rm -rf .venv/cache
	@touch $@

# The oldest ONNX Runtime that exported files are tried with (nasdeploy/convert/versions.py), in a place of its own, which
# takes some seconds. Where it cannot be had its test is skipped.
$(OLDEST): | $(INSTALLED)
	@$(PIP_INSTALL) --no-deps --target $(@D) \
		onnxruntime==1.15.1 numpy==1.26.4 pillow && touch $@ || echo "No old ONNX Runtime: its test is skipped"

# Another PyTorch, of some gigabytes.
$(LOWEST)/installed: pyproject.toml tests/lowest.py | $(INSTALLED)
	@echo "Installing the oldest versions into $(LOWEST) (once, a few minutes)"
	$(PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/python tests/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install --quiet --no-compile --disable-pip-version-check -c $(LOWEST)/constraints.txt -e '.[test]'
	@touch $@
