# Everything runs in .venv, which the first target to need it makes from requirements.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One process a core, each of which takes tests from the others when it has none left.
IN_PARALLEL := -n auto --dist worksteal
# Warnings are errors with the pinned packages; what other versions and libraries warn of is theirs.
OTHERS_WARN := -W default
EXAMPLES := $(addprefix examples/,notebook.py logistic_regression.py recurrent.py differential_equations.py)
CXX_SOURCES = $(shell git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' '*.c')

# The CUDA build stands apart: torch with CUDA in its own environment, fusedgrad in build/cuda.
CUDA_TORCH := 2.14.1
CUDA_VENV := .venv-cuda
CUDA_BIN := $(CUDA_VENV)/bin
CUDA_LIB := $(CURDIR)/build/cuda/lib

# Software of others that models are used with, in an environment of its own.
COMPANIONS_VENV := .venv-companions
COMPANIONS_BIN := $(COMPANIONS_VENV)/bin

.PHONY: help build demo examples $(EXAMPLES) dist test-dist test test-slow matrix test-sanitized test-companions check-aarch64 check-clang lint format bench accuracy cuda-build test-cuda-build test-cuda-operators gpu gpu-rehearsal gpu-build clean

help:
	@echo "make demo       the derivatives of the two notebooks, two trainings, a picture"
	@echo "make examples   a notebook, regression, a recurrent network, differential equations"
	@echo "make test       every test but the slow ones"
	@echo "make test-slow  the slow ones, 17 to 40 minutes on 2 cores: every float32 input, 500 random"
	@echo "                programs, 10^8 losses, all machine code, the worked example"
	@echo "make test-companions  models of transformers, lightning, captum, opacus, backpack and ONNX"
	@echo "make lint       ruff, mypy --strict, clang-format"
	@echo "make bench      speed beside torch, torch.compile and the floor"
	@echo "make dist       a wheel and a source distribution in dist; make test-dist checks them"
	@echo "make gpu        in 8 minutes tests and speed of this machine's GPU, told in benchmarks/results"
	@echo "make gpu-build  a build to carry to a GPU: PYTHON_VERSION=3.12 TORCH=2.11.0+cu130 ARCH=9.0"
	@echo "make test-cuda-operators  operators and autograd on CUDA tensors, on the emulated device"
	@echo "make matrix     builds and tests PAIRS, such as 2.11.0:3.12, of PyTorch and Python"
	@echo "make accuracy   largest errors beside torch's, in ULP"

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fusedgrad needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	echo '$(CURDIR)/python' > $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/fusedgrad.pth
	touch $@

build: $(VENV)/installed
	mkdir -p build
	FUSEDGRAD_WERROR=1 $(BIN)/python setup.py --quiet build_ext --inplace >build/log 2>&1 || { cat build/log; exit 1; }

demo: build
	$(BIN)/python -m demo

examples: $(EXAMPLES)

$(EXAMPLES): build
	$(BIN)/python $@

test: build
	$(BIN)/python -m pytest $(IN_PARALLEL)

# SHARE=1/4 is every fourth of them, from the second on.
SHARE ?= 0/1
test-slow: build
	$(BIN)/python -m pytest $(IN_PARALLEL) -m slow --share $(SHARE)

# A source distribution, and from it alone a wheel. What the wheel shares with torch comes from the
# torch it is installed beside, so that all auditwheel has to do is to name the oldest C library.
dist: $(VENV)/installed
	rm -rf dist build/wheel
	$(BIN)/python setup.py --quiet sdist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel dist/fusedgrad-*.tar.gz
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude 'libtorch*.so' --exclude libc10.so --wheel-dir dist build/wheel/fusedgrad-*.whl

# Installs the wheel beside .venv's torch into an environment of its own.
test-dist: dist
	$(BIN)/python tests/check_dist.py

# Builds and tests pairs of PyTorch and Python, each in an environment of its own under build/matrix.
matrix: $(VENV)/installed
	$(BIN)/python tools/matrix.py $(MATRIX_FLAGS) $(PAIRS)

# The operators under AddressSanitizer and UndefinedBehaviorSanitizer.
test-sanitized: build
	sh tests/sanitized.sh -q $(IN_PARALLEL)

$(COMPANIONS_VENV)/installed: requirements.txt requirements-companions.txt
	$(PYTHON) -m venv $(COMPANIONS_VENV)
	$(COMPANIONS_BIN)/python -m pip install --quiet --requirement requirements.txt --requirement requirements-companions.txt
	$(COMPANIONS_BIN)/python -m pip install --quiet --no-deps backpack-for-pytorch==1.7.1
	echo '$(CURDIR)/python' > $$($(COMPANIONS_BIN)/python -c 'import site; print(site.getsitepackages()[0])')/fusedgrad.pth
	touch $@

# Losses and gradients of plain, patched and converted models in the hands of other libraries.
test-companions: build $(COMPANIONS_VENV)/installed
	$(COMPANIONS_BIN)/python -m pytest -q $(OTHERS_WARN) tests/check_companions.py

# The baseline of csrc/cpu for 64-bit Arm; needs a cross compiler (Debian's g++-aarch64-linux-gnu).
check-aarch64:
	for source in csrc/cpu/*.cpp; do aarch64-linux-gnu-g++ -std=c++20 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Werror -Icsrc -c $$source -o /dev/null || exit 1; done

# Everything with clang++, and fused functions too; needs clang++ and its libomp (Debian's clang-19 and
# libomp-19-dev). Fused functions are held to their exact values. Of csrc/cuda the syntax, on host and
# device: clang 19 knows toolkits up to 12.5, and includes two of their headers that 13.0 has not.
CLANG ?= clang++-19
CLANG_CUDA = -xcuda --cuda-path=$(wildcard $(VENV)/lib/python3.*/site-packages/nvidia/cu13) \
	--cuda-gpu-arch=sm_90 -nocudalib --no-cuda-version-check -Xclang -target-sdk-version=12.5 \
	-isystem build/clang/include -Icsrc -std=c++20 -fsyntax-only -Wall -Wextra -Werror \
	-Wno-bitwise-instead-of-logical -Wno-bitwise-conditional-parentheses \
	-Wno-unknown-cuda-version -Wno-unknown-attributes
check-clang: $(VENV)/installed
	mkdir -p build/clang/include
	touch build/clang/include/texture_fetch_functions.h build/clang/include/curand_mtgp32_kernel.h
	for source in csrc/cuda/*.cu; do $(CLANG) $(CLANG_CUDA) $$source || exit 1; done
	CXX=$(CLANG) FUSEDGRAD_CUDA=0 FUSEDGRAD_WERROR=1 $(BIN)/python setup.py --quiet build --build-base build/clang --build-platlib build/clang/lib >build/clang/log 2>&1 || { cat build/clang/log; exit 1; }
	CXX=$(CLANG) PYTHONPATH=build/clang/lib $(BIN)/python -m pytest $(IN_PARALLEL) tests/test_functional.py tests/test_fuse_functions.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: build
	$(BIN)/python -m benchmarks.speed $(BENCH_FLAGS)

accuracy: build
	$(BIN)/python -m benchmarks.accuracy $(ACCURACY_FLAGS)

$(CUDA_VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(CUDA_VENV)
	sed 's/^torch==.*/torch==$(CUDA_TORCH)/' requirements.txt >$(CUDA_VENV)/requirements.txt
	$(CUDA_BIN)/python -m pip install --quiet --requirement $(CUDA_VENV)/requirements.txt
	echo '$(CUDA_LIB)' > $$($(CUDA_BIN)/python -c 'import site; print(site.getsitepackages()[0])')/fusedgrad.pth
	touch $@

# Every architecture, unless TORCH_CUDA_ARCH_LIST names fewer.
cuda-build: $(CUDA_VENV)/installed
	mkdir -p build/cuda
	TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-all}" FUSEDGRAD_WERROR=1 FUSEDGRAD_CUDA=1 $(CUDA_BIN)/python setup.py --quiet build --build-base build/cuda --build-platlib $(CUDA_LIB) >build/cuda/log 2>&1 || { cat build/cuda/log; exit 1; }

# What can be checked of it without a GPU: it imports under both torches, it holds every
# architecture, and its operators pass the CPU's tests.
test-cuda-build: cuda-build build
	$(CUDA_BIN)/python tests/check_cuda_build.py
	PYTHONPATH=$(CUDA_LIB) $(BIN)/python tests/check_cuda_build.py
	$(CUDA_BIN)/python -m pytest -q $(IN_PARALLEL) $(OTHERS_WARN) tests/test_functional.py tests/test_operators.py tests/test_nn.py tests/test_errors.py tests/test_notebooks.py tests/test_accuracy.py

# The same operators on CUDA tensors: the emulated device under .venv's torch, as a GPU would be.
test-cuda-operators: build
	cd tests && ../$(BIN)/python -m cuda_torch $(IN_PARALLEL) -q test_fuse_cuda.py test_fuse_parameters.py test_cuda_kernels.py test_cuda_jets.py test_taylor.py test_sums.py -k '[cuda'

# On this machine's GPU, without the network: by PYTHON if it has torch with CUDA, else by an
# environment of its own from the registry. With a build that was carried along, if it fits.
gpu:
	@if $(PYTHON) -c 'import sys, torch; sys.exit(torch.version.cuda is None)' 2>/dev/null; \
	then $(PYTHON) -m benchmarks.gpu $(GPU_FLAGS); \
	elif nvidia-smi --list-gpus 2>/dev/null; \
	then $(MAKE) $(CUDA_VENV)/installed && $(CUDA_BIN)/python -m benchmarks.gpu $(GPU_FLAGS); \
	else echo "make gpu: no GPU on this machine (nvidia-smi lists none); nothing was run."; exit 1; fi

# What `make gpu` does, with the emulated device in the GPU's place.
gpu-rehearsal: build
	$(BIN)/python -m benchmarks.gpu --rehearse

# A build to carry to a machine with a GPU, in build/gpu/lib.
PYTHON_VERSION ?= 3.12
TORCH ?= 2.11.0+cu130
ARCH ?= 9.0
gpu-build: $(VENV)/installed
	$(BIN)/python -m tools.gpu_build --python $(PYTHON) --python-version $(PYTHON_VERSION) --torch $(TORCH) --arch '$(ARCH)'

clean:
	rm -rf build python/fusedgrad/*.so
