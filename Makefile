# make demo   a whole session on this machine, explained      make test    the whole suite
# make check  types and style                                 make bench   ratios, measured in one run
PY := .venv/bin/python

.PHONY: setup demo test check bench clean

setup:
	@scripts/setup

demo: setup
	@scripts/demo

test: setup
	@$(PY) -m pytest

check: setup
	@$(PY) -m ruff check
	@$(PY) -m mypy

bench: setup
	@$(PY) -m benchmarks

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis hsm_signer.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
