# One command each. `make demo` and `make test` need nothing prepared: they build .venv first.
SHELL := /bin/bash
PY := .venv/bin/python
PYTHON ?= python3
export PYTHONDONTWRITEBYTECODE ?= 1

.PHONY: setup demo test check fmt proto bench bench-consensus chaos chaos-selftest sim clean

setup: .venv/ready

.venv/ready: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev,columns]'
	touch $@

demo: setup  ## the main job: three masters, four workers, real text, a killed leader
	$(PY) -m examples.demo

test: setup  ## every test but the long ones
	.ci/system-packages
	$(PY) -m pytest tests

check: setup  ## format, lint, types, import contract, tidy
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m pytest -q tests/unit/test_tidy.py

fmt: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

proto: setup  ## regenerate mr/rpc and consensus/rpc from proto/
	$(PY) .ci/generate.py

bench: setup
	$(PY) -m tests.bench

bench-consensus: setup
	$(PY) -m tests.bench.consensus

sim: setup  ## make sim SEEDS=2000, or SEEDS=500-900, or THEME=votes
	PYTHONHASHSEED=0 $(PY) -m tests.simulation.run --seeds $(or $(SEEDS),500) $(if $(THEME),--theme "$(THEME)")

chaos: setup  ## make chaos, or make chaos HOURS=2
	.ci/system-packages
	$(PY) -m tests.chaos $(if $(HOURS),--hours $(HOURS))

chaos-selftest: setup
	.ci/system-packages
	$(PY) -m tests.planted.selftest

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
