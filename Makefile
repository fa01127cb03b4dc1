# `make demo` and `make test` set everything up from nothing; see CONTRIBUTING.md.
VENV := .venv
BIN := $(VENV)/bin
# Every slot is a Python of its own: they start quicker from compiled modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint bench chaos format clean

help:
	@echo "make demo    real elevation data, strip by strip: results, a picture and a report"
	@echo "make test    lint, types, import rules and all tests"
	@echo "make lint    ruff, mypy --strict and the import rules"
	@echo "make bench   the figures that count, each beside a named peer's"
	@echo "make chaos   the fault tests with large counts"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove what these commands made"

demo: $(VENV)/demo.stamp
	$(BIN)/encamp run examples/terrain/terrain.py demo/terrain
	@echo "picture: demo/terrain/terrain.png"

test: $(VENV)/dev.stamp lint
	tools/debian-packages
	tools/mpi-wheels $(VENV)
	$(BIN)/pytest -n 3 --dist worksteal

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp
	tools/mpi-wheels $(VENV)
	$(BIN)/python -m benchmarks

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/demo.stamp: pyproject.toml tools/make-venv
	tools/make-venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[examples]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml tools/make-venv
	tools/make-venv $(VENV)
	$(BIN)/python -m pip install -q -e . --group dev
	touch $@

chaos: $(VENV)/dev.stamp
	tools/debian-packages
	tools/mpi-wheels $(VENV)
	ENCAMP_CHAOS=20 $(BIN)/pytest -n 2 -m chaos --timeout 3000
