.PHONY: demo test wheel coverage matrix mutate sanitize fuzz faults stops settings lint format docs

PYTHON ?= python3
export PYTHONUNBUFFERED = 1
BIN := .venv/bin
SEED ?= 0
COUNT ?= 1600
TIMES ?= 100
MUTANTS ?= 200

demo: .venv/ready
	@$(BIN)/python tools/demo.py

test: .venv/ready
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal

# The tutorial's commands from a wheel, in an empty environment and an empty folder.
wheel:
	@PYTHON=$(PYTHON) tests/wheel.sh

# The tests, and what of cmems/ they reach, processes that they start included; fails under 90 % of lines and branches.
coverage: .venv/ready
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal --cov=cmems --cov-report=term-missing:skip-covered --cov-fail-under=90

# Every Python, the oldest and the newest torch and numpy, the fork of MMEngine: each in an environment of its own.
matrix: .venv/ready
	@$(BIN)/python tests/fuzz/matrix.py

# Small changes to the core that its tests must notice.
mutate: .venv/ready
	@$(BIN)/python tests/fuzz/mutate.py --count $(MUTANTS) --seed $(SEED)

# The compiled operators under AddressSanitizer and UndefinedBehaviorSanitizer; torch throws, so that libstdc++ must be
# there before the first of them. The cache keeps this library apart by its flags.
sanitize: .venv/ready
	@CMEMS_CXXFLAGS="-g -fsanitize=address,undefined -fno-sanitize-recover=all" CXX=g++ \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
		$(BIN)/python -m pytest -q --capture=sys tests/test_ops.py

# Spoilt files of every kind through the tools; COUNT=20000 is the long one.
fuzz: .venv/ready
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py --count $(COUNT) --seed $(SEED)

# Every write of a short run of every tool fails once, and from there on.
faults: .venv/ready
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/faults.py

# A short training ended at random moments by kill -9 and by each signal, and resumed, to the same bits.
stops: .venv/ready
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/stops.py --times $(TIMES) --seed $(SEED)

# Every setting of every method's config, typed wrong.
settings: .venv/ready
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/settings.py

lint: .venv/ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: .venv/ready
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: .venv/ready-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the pages are in site/index.html"

.venv/ready-docs: .venv/ready
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[docs]'
	@touch $@

.venv/ready: constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "error: CMEMS needs Python 3.10, 3.11 or 3.12; $(PYTHON) is $$($(PYTHON) -V). Set PYTHON=python3.11."; exit 2; }
	@echo "setting up .venv (once; a few minutes, mostly downloading torch)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt setuptools
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[test]'
	@touch $@
