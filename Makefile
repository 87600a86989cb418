# `make test` and `make demo` do all their own set-up: a fresh clone needs Python ≥ 3.11, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help test demo docs dist lowest clean

help:
	@echo 'make test    lint, types, layers and tests'
	@echo 'make demo    simulate particles of a phantom, recover it, evaluate the map (pictures in demo/)'
	@echo 'make docs    the documentation site, in site/'
	@echo 'make dist    the wheel and the source archive, in dist/'
	@echo 'make lowest  a job and some tests with every dependency at its declared lower bound (PIN=torch==2.13.0: but this)'
	@echo 'make clean   remove .venv, demo, site and dist'

# The suite's tensors are small: a second thread costs more than it gains (11 s against a minute on two busy cores), so a
# core has a process. A file's tests stay together, since they share what was computed once. Where a test asks for threads
# they must not spin while they wait for a core.
test: export OMP_NUM_THREADS := 1
test: export OMP_WAIT_POLICY := PASSIVE
test: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -n auto --dist loadfile

demo: $(READY)
	rm -rf demo
	$(BIN)/orbitrec simulate cryoem --phantom 200 -n 3000 --snr 0.1 --shift-px 2 --seed 1 -o demo/data
	$(BIN)/orbitrec abinitio demo/data/particles.star -o demo/run --truth demo/data/truth.mrc
	$(BIN)/orbitrec evaluate demo/run/initial_model.mrc demo/data/truth.mrc
	@echo 'pictures:'; ls demo/run/*.png

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet
	@echo 'open site/index.html'

dist: $(READY)
	rm -rf dist
	$(BIN)/hatchling build -d dist
	@ls -l dist

lowest: export OMP_NUM_THREADS := 1
lowest:
	$(PYTHON) tools/fresh_install.py --lowest $(addprefix --pin ,$(PIN))

clean:
	rm -rf $(VENV) demo site dist

# torch first and by itself: the pin then takes the build that pip is set up for (CPU or GPU).
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'orbitrec needs Python 3.11 or newer; say: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }
	@echo 'setting up $(VENV): some minutes, once'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
