VENV ?= .venv
PY = $(VENV)/bin/python

.PHONY: install check test lint bench docs screenshots

install: ## a virtual environment with the package, editable, and everything the tests need
	test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install --quiet -e '.[test]'

check: lint test ## all that must hold before a commit

lint: ## style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test:
	$(PY) -m pytest

bench: ## speed and memory, with the figures of the documentation
	$(PY) benchmarks/speed.py

docs: ## the generated parts of the documentation, from the code itself
	$(PY) -m simulator.documentation .

screenshots: ## the pictures of the dashboard in the documentation, by its browser test
	SERVECAST_SCREENSHOTS=docs/images $(PY) -m pytest -n 0 tests/test_dashboard_browser.py -k drawn
