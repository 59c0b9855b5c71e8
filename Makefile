# make env   the environment alone, in .venv
# make demo  the whole story on real images, in about a minute
# make test  linters, types and tests
# make test-cuda    the GPU path without a GPU, by CuPy on a CUDA made of the processor
# make bench        the benchmark suites, in a few minutes; on a machine that does nothing else
# make bench-full   the same with more rows and rounds
# make bench-peers  crossgram beside other ways to the same maps
# Each of the three puts its figures into benchmarks/results/ and makes benchmarks/RESULTS.md again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAND_IN := .cuda

.PHONY: env demo test test-cuda lint format bench bench-full bench-peers clean
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

$(STAND_IN)/.built: $(wildcard tests/cuda_stand_in/*.cpp tests/cuda_stand_in/*.h) \
		tests/cuda_stand_in/build.py $(VENV)/.installed
	$(BIN)/python tests/cuda_stand_in/build.py $(STAND_IN)
	touch $@

# work of streams is done as late as can be, then in any order, then with products of integers
test-cuda: $(STAND_IN)/.built
	$(STAND_IN)/pytest --numprocesses logical -m gpu tests/test_gpu.py tests/test_devices.py
	CUDA_STAND_IN_ORDER=random $(STAND_IN)/pytest --numprocesses logical -m gpu tests/test_gpu.py
	CUDA_STAND_IN_SLICES=1 $(STAND_IN)/pytest --numprocesses logical -m gpu tests/test_gpu.py
	$(STAND_IN)/pytest --numprocesses logical tests/cuda_stand_in

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
	rm -rf $(VENV) $(STAND_IN) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
