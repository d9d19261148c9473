# `make demo` and `make test` need Python >= 3.11 and nothing else: they set up their own virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What must be there for the package to import as installed; a change of pyproject.toml installs anew.
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
BENCH_STAMP := $(VENV)/.installed-bench

.PHONY: demo test fuzz kill lint site clean

demo: $(STAMP)
	$(BIN)/noisereg train --noise blue-tv --reg isotropy --process iadb --resume --out runs/demo
	$(BIN)/noisereg sample runs/demo --num 64 --out runs/demo/grid.png
	@echo "the picture:    runs/demo/grid.png"
	@echo "the run folder: runs/demo (config.yaml, metrics.jsonl, checkpoints/, samples/)"

test: $(TEST_STAMP)
	$(BIN)/pytest -n 2

# About ten minutes on two idle cores: noisereg beside what people would use instead; writes docs/benchmarks.md.
BENCHMARKS ?= training sampling quality fidelity noise pairing startup loading sweep scale
bench: $(BENCH_STAMP)
	@failed=; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -P benchmarks/$$name.py || failed="$$failed $$name"; \
	done; \
	$(BIN)/python docs/make_benchmarks.py; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# About ten minutes: the fuzzer and the corruption test with many examples; NUMBER and SEED may be given.
NUMBER ?= 50000
SEED ?= $(shell date +%s)
fuzz: $(TEST_STAMP)
	@echo "seed $(SEED): make fuzz SEED=$(SEED) NUMBER=$(NUMBER) does the same again"
	NOISEREG_FUZZ=$(NUMBER) $(BIN)/pytest tests/fuzz -p no:cacheprovider --hypothesis-seed=$(SEED)

# About two minutes: 200 kills of train, eval, noise build and sweep, and 20 pairs of runs started together.
kill: $(TEST_STAMP)
	NOISEREG_KILLS=200 NOISEREG_ROUNDS=20 $(BIN)/pytest tests/test_kill.py tests/test_ownership.py

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site in build/site: open its index.html. A broken link is an error.
site: $(TEST_STAMP)
	$(BIN)/mkdocs build --quiet --strict

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'noisereg needs Python >= 3.11; give PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(STAMP): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TEST_STAMP): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(STAMP) $@

$(BENCH_STAMP): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@touch $(STAMP) $@

clean:
	rm -rf $(VENV) build dist *.egg-info
