# Everything runs in .venv, which the first target to need it makes from requirements.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY_SOURCES := setup.py python tests benchmarks demo tools
CXX_SOURCES = $(shell git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' '*.c')

.PHONY: help build demo test test-slow lint format bench accuracy clean

help:
	@echo "make demo       the derivatives of the two notebooks, two trainings, a picture"
	@echo "make test       every test but the slow ones"
	@echo "make test-slow  the slow ones: every float32 input, 10^8 losses"
	@echo "make lint       ruff, mypy --strict, clang-format"
	@echo "make bench      speed beside torch's"
	@echo "make accuracy   largest errors beside torch's, in ULP"

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fusedgrad needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	echo '$(CURDIR)/python' > $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/fusedgrad.pth
	touch $@

build: $(VENV)/installed
	mkdir -p build
	$(BIN)/python setup.py --quiet build_ext --inplace >build/log 2>&1 || { cat build/log; exit 1; }

demo: build
	$(BIN)/python -m demo

test: build
	$(BIN)/python -m pytest

test-slow: build
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed
	$(BIN)/ruff check $(PY_SOURCES)
	$(BIN)/ruff format --check $(PY_SOURCES)
	$(BIN)/mypy $(PY_SOURCES)
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(VENV)/installed
	$(BIN)/ruff check --fix $(PY_SOURCES)
	$(BIN)/ruff format $(PY_SOURCES)
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: build
	$(BIN)/python -m benchmarks.speed $(BENCH_FLAGS)

accuracy: build
	$(BIN)/python -m benchmarks.accuracy $(ACCURACY_FLAGS)

clean:
	rm -rf build python/fusedgrad/*.so
