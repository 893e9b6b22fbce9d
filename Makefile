# Burnish. `make` alone prints what there is. ARGS="…" is passed on to the command.
# Paths here are relative on purpose: a checkout may lie under a folder with spaces.

ARGS =
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help install install-dev quickstart test check bench docs lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

install: ## make .venv with Burnish in it (called again: does nothing)
	@sh tools/python.sh tools/install.py

install-dev: ## the same with the developer tools
	@sh tools/python.sh tools/install.py --dev

quickstart: install ## fine-tune the default model here and now, and see what it learned
	@.venv/bin/burnish quickstart $(ARGS)

test: install-dev ## the import order, then all tests (ARGS="-k packing" picks)
	@.venv/bin/lint-imports
	@.venv/bin/python -m pytest $(ARGS)

check: install-dev ## format, lint, types, import order, docs up to date
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python tools/docs.py --check

bench: install ## run the benchmarks in bench/; they print ratios
	@for script in bench/*.py; do \
		[ -e "$$script" ] || { echo "no benchmarks in bench/ yet"; break; }; \
		echo "== $$script"; .venv/bin/python "$$script" $(ARGS) || exit 1; \
	done

docs: install-dev ## write the generated pages of docs/ anew
	@.venv/bin/python tools/docs.py $(ARGS)

lock: ## resolve requirements/lock*.txt from pyproject.toml (ARGS=--upgrade: newest versions)
	@sh tools/python.sh tools/lock.py $(ARGS)

clean: ## remove .venv and caches; runs and models stay
	rm -rf .venv .install build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools -name __pycache__ -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
