# make env   the environment alone, in .venv
# make demo  the whole story on real images, in about a minute
# make test  linters, types and tests, as CI runs them
# make bench        the benchmark suites, in a few minutes; on a machine that does nothing else
# make bench-full   the same with more rows and rounds
# make bench-peers  crossgram beside other ways to the same maps
# Each of the three puts its figures into benchmarks/results/ and makes benchmarks/RESULTS.md again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: env demo test lint format bench bench-full bench-peers clean
.DEFAULT_GOAL := test

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	# without what they ask for: this torchvision asks for a torch with CUDA
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps torchvision timm
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: env
	$(BIN)/crossgram demo

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses logical --dist loadscope

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/python benchmarks/suite.py

bench-full: env
	$(BIN)/python benchmarks/suite.py --form full

bench-peers: env
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/side_by_side.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
