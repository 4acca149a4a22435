# Needs Python 3.11 or newer, pip and make; makes .venv and installs into it, nowhere else.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-browser check lab bench notebooks clean

PYTHON ?= python3
BIN := .venv/bin

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/.lab: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lab,sign]'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/.lab

# Another counter of sessions, whose opinion slow tests and a benchmark ask for; without npm they skip and say so.
.venv/.ccusage: .venv/.dev
	@npm install --silent --no-audit --no-fund --include=optional --prefix .venv/ccusage ccusage@20.0.24 >/dev/null 2>&1 \
	  || echo "SKIPPED: no ccusage, since there is no npm or it could not install it"
	@touch $@

demo: .venv/.lab ## Take an incident of the embedded sample from database to proof
	$(BIN)/exporttools demo

# Files stay together on a worker, since each worker has a PostgreSQL of its own and modules share what they made.
# tests/conftest.py says which begin first; pytest-xdist would begin those with most tests.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: .venv/.dev ## Run the tests, on real SQLite and PostgreSQL, without the slow ones
	$(PYTEST) -m 'not slow'

test-all: .venv/.dev .venv/.ccusage ## Run all tests: kills, byte flips, bombs, Dask and Spark as well
	$(PYTEST)

# As root, Debian's chromium is installed where there is none; else, or where that fails, the tests skip and say so.
test-browser: .venv/.dev ## Open reports and JupyterLab in a real browser; needs chromium
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || echo "SKIPPED: no chromium, and it could not be installed"
	$(BIN)/python -m pytest tests/browser

check: .venv/.dev ## Lint, type-check, and hold the floors apart
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: .venv/.lab ## Open JupyterLab on copies of the notebooks
	$(BIN)/exporttools lab

bench: .venv/.dev .venv/.ccusage ## Measure against peers, side by side; prints ratios
	$(BIN)/python benchmarks/bench_reads.py
	$(BIN)/python benchmarks/bench_verify.py
	$(BIN)/python benchmarks/bench_export.py
	$(BIN)/python benchmarks/bench_analysis.py
	$(BIN)/python benchmarks/bench_unusual.py
	$(BIN)/python benchmarks/bench_trees.py
	$(BIN)/python benchmarks/bench_import.py

notebooks: .venv/.dev ## Run the notebooks on the sample and keep their outputs
	$(BIN)/python notebooks/refresh.py

clean: ## Remove what was made, but not results
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
