# `make demo` and `make test` set everything up from nothing; see CONTRIBUTING.md.
VENV := .venv
BIN := $(VENV)/bin
# Slots are Python processes, which start faster from compiled modules.
unexport PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONPATH
TESTS := -n 5 --dist worksteal

.PHONY: help demo test ready test-newest test-lowest lint bench chaos docs dist lock format clean

help:
	@echo "make demo    real elevation data, strip by strip: results, a picture and a report"
	@echo "make test    lint, types, import rules and all tests"
	@echo "make lint    ruff, mypy --strict and the import rules"
	@echo "make bench   the figures that count, each beside a named peer's"
	@echo "make docs    the pages of documentation, in site/"
	@echo "make dist    wheel and source archive, checked, in dist/"
	@echo "make chaos   the fault tests with large counts"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove what these commands made"
	@echo
	@echo "make lock         renew the versions of tools and libraries that all these use"
	@echo "make test-newest  the same as 'make test' with the newest of everything"
	@echo "make test-lowest  all tests with the lowest versions that pyproject.toml allows"

demo: $(VENV)/demo.stamp
	$(BIN)/encamp run examples/terrain/terrain.py demo/terrain
	@echo "picture: demo/terrain/terrain.png"

test: $(VENV)/dev.stamp
	$(MAKE) --no-print-directory -j 2 lint ready
	$(BIN)/pytest $(TESTS)

# What tests need; they are compiled once here, which each of pytest's processes would do otherwise.
ready: $(VENV)/dev.stamp
	tools/debian-packages
	tools/mpi-wheels $(VENV)
	$(BIN)/pytest --collect-only -q >/dev/null

test-newest:
	tools/make-venv $(VENV)-newest newest
	tools/debian-packages
	tools/mpi-wheels $(VENV)-newest newest
	$(VENV)-newest/bin/ruff check .
	$(VENV)-newest/bin/ruff format --check .
	$(VENV)-newest/bin/mypy
	$(VENV)-newest/bin/lint-imports
	$(VENV)-newest/bin/pytest $(TESTS)

test-lowest:
	tools/make-venv $(VENV)-lowest lowest
	tools/debian-packages
	tools/mpi-wheels $(VENV)-lowest
	$(VENV)-lowest/bin/pytest $(TESTS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp
	tools/mpi-wheels $(VENV)
	$(BIN)/python -m benchmarks

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # --quiet would hide broken links
	@echo "open site/index.html; search needs a server: python3 -m http.server -d site"

dist: $(VENV)/release.stamp
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-lowest $(VENV)-lock demo dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

lock:
	tools/make-venv $(VENV)-lock lock
	tools/lock $(VENV)-lock

$(VENV)/%.stamp: pyproject.toml requirements/%.txt tools/make-venv
	tools/make-venv $(VENV) $*
	touch $@

chaos: $(VENV)/dev.stamp
	tools/debian-packages
	tools/mpi-wheels $(VENV)
	ENCAMP_CHAOS=20 $(BIN)/pytest -n 2 -m chaos --timeout 3000
