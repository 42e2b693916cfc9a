# make demo | make test | make lint. Each makes the environment in .venv first, with the python3 it finds (PYTHON=... for another).
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: demo test lint format clean

.venv/done: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch $@

demo: .venv/done
	$(BIN)/python -m experiments.demo --workdir=$(DEMO)

test: .venv/done
	$(BIN)/python -m pytest -n 2

lint: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache
