# make help says what there is. Everything is set up in .venv, from nothing but Python with venv, make and g++.
PYTHON ?= python3
# Another build of torch: make demo TORCH="torch==2.14.0"
TORCH ?= torch==2.13.0
# Options of CMakeLists.txt, e.g. NATIVE_FLAGS="-DZSU_CUDA=OFF"; of pytest, e.g. PYTEST_FLAGS="-k lrp".
NATIVE_FLAGS ?=
PYTEST_FLAGS ?=
# Of the calls that make fuzz draws.
SEED ?= 0
# Where make test-zoo writes its table.
MODELS_TABLE ?= docs/models.md
# Threads that wait sleep: with a core busy elsewhere, spinning ones make small nets 30 to 100 times slower.
export GOMP_SPINCOUNT ?= 0
# Tests start many processes, each of which imports the package: what one of them compiles the next one finds.
unexport PYTHONDONTWRITEBYTECODE
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

# The GPUs of this machine; without one, compiling for one architecture shows that the code compiles.
nvcc := $(shell command -v nvcc)
CUDA_ARCHS := $(if $(shell command -v nvidia-smi),native,90a-real)

bin := .venv/bin
done := .venv/done
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check
say = @echo "zsu_fast: $(1)"
# cmake, ninja and the compilers' helpers come from .venv.
tools := PATH="$(CURDIR)/$(bin):$$PATH"

.PHONY: help setup native demo test fuzz test-zoo notebooks bench docs lint format clean

help:
	@echo "make demo    set up, train a small network on digits, make it forget one, write a report, undo it; no compiler"
	@echo "make test    set up, build, run the tests (some 20 minutes on 2 cores)"
	@echo "make fuzz    100,000 calls of ops, functions and damaged files with drawn arguments (4 minutes); SEED=1 others"
	@echo "make test-zoo  relevance on the models of timm, torchvision and transformers: docs/models.md (half an hour)"
	@echo "make notebooks  run the notebooks of docs/notebooks again, and keep what they say (ten minutes)"
	@echo "make native  set up, build the C++ and (with nvcc) CUDA libraries into zsu_fast/lib"
	@echo "make bench   measure models and ops against their peers: bench/results/, and the README's tables"
	@echo "make docs    the site of docs/, into build/site; what does not lead anywhere is an error"
	@echo "make lint    ruff, mypy, clang-format;   make format  apply them"
	@echo "make clean   remove builds;   rm -r .venv removes the set-up"

$(done)/torch:
	$(call say,creating .venv and installing $(TORCH) (this is the long part))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "zsu_fast needs Python >= 3.10, $(PYTHON) is " + sys.version)'
	@test -x $(bin)/python || $(PYTHON) -m venv .venv
	@$(bin)/python -c 'import torch' 2>/dev/null || $(pip) '$(TORCH)' numpy
	@mkdir -p $(done)
	@# Whatever is installed later must not replace torch.
	@$(bin)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' > $(done)/constraints.txt
	@touch $@

$(done)/package: $(done)/torch pyproject.toml
	$(call say,installing the package (editable) and what it needs)
	@$(pip) --constraint $(done)/constraints.txt cmake ninja 'pybind11>=3.0' 'scikit-build-core>=0.11' \
	  'hatch-fancy-pypi-readme>=24.1'
	@# The libraries are built by "make native", where a second build takes a moment.
	@$(pip) --constraint $(done)/constraints.txt --no-build-isolation --editable '.[cli,report,evaluate,benchmark]'
	@touch $@

$(done)/tests: $(done)/package tests/requirements.txt tests/requirements-peers.txt
	$(call say,installing what the tests need)
	@$(pip) --constraint $(done)/constraints.txt --requirement tests/requirements.txt
	@$(pip) --no-deps --requirement tests/requirements-peers.txt
	@touch $@

$(done)/lint: $(done)/torch tests/requirements-lint.txt
	$(call say,installing the linters)
	@$(pip) --constraint $(done)/constraints.txt --requirement tests/requirements-lint.txt
	@touch $@

$(done)/docs: $(done)/torch docs/requirements.txt
	$(call say,installing what makes the site)
	@$(pip) --constraint $(done)/constraints.txt --requirement docs/requirements.txt
	@touch $@

setup: $(done)/package

native: $(done)/package
	$(call say,building the libraries (csrc/))
	@mkdir -p build
	@$(tools) cmake -G Ninja -S . -B build/dev -DPython_EXECUTABLE="$(CURDIR)/$(bin)/python" \
	  '-DZSU_CUDA_ARCHS=$(CUDA_ARCHS)' $(NATIVE_FLAGS) > build/dev.log 2>&1 || { cat build/dev.log; exit 1; }
	@sed -n 's/^-- \(zsu_fast: .*\)/\1/p' build/dev.log
	@# On a terminal ninja tells how far it is.
	@if [ -t 1 ]; then $(tools) cmake --build build/dev --parallel $(JOBS); \
	  else $(tools) cmake --build build/dev --parallel $(JOBS) > build/dev.log 2>&1 || { cat build/dev.log; exit 1; }; fi
	@$(tools) cmake --install build/dev --prefix zsu_fast > /dev/null

demo: $(done)/package
	$(call say,running the demo)
	@$(bin)/zsu-fast demo
	@ls zsu_fast/lib/libzsu_fast_* > /dev/null 2>&1 || \
	  echo "zsu_fast: that was the PyTorch reference; make native builds the libraries, which make large models fast"

test: $(done)/tests native
	$(call say,running the tests)
	@OMP_NUM_THREADS=1 $(bin)/python -m pytest -q --numprocesses=2 --durations=10 $(PYTEST_FLAGS)

fuzz: $(done)/tests native
	$(call say,calling everything with drawn arguments)
	@OMP_NUM_THREADS=1 $(bin)/python -m tests.fuzz.driver --seed $(SEED) --calls 100000

test-zoo: $(done)/tests native
	$(call say,installing the newest torch and the libraries of models)
	@environment=.venv-cuda; .ci/newest_torch || environment=.venv; \
	echo "zsu_fast: running every model of the zoo in $$environment"; \
	ZSU_FAST_ZOO_TABLE=$(MODELS_TABLE) OMP_NUM_THREADS=1 $$environment/bin/python -m pytest -q --numprocesses=2 \
	  --durations=10 $(PYTEST_FLAGS) tests/zoo

notebooks: $(done)/tests native
	$(call say,running the notebooks)
	@$(pip) --constraint $(done)/constraints.txt nbclient ipykernel
	@OMP_NUM_THREADS=1 $(bin)/python -m tests.notebooks docs/notebooks/*.ipynb

bench: $(done)/tests native
	@$(bin)/python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")' > $(done)/device
	$(call say,measuring whole models)
	@$(bin)/python -m bench run --filter 'relevance/*' --json bench/results/models_$$(cat $(done)/device).json
	$(call say,measuring the ops)
	@$(bin)/python -m bench run --without 'relevance/*' --json bench/results/ops_$$(cat $(done)/device).json
	@$(bin)/python -m bench table
	$(call say,measuring plans)
	@$(bin)/python -m bench.plans --json bench/results/plans.json --inductor LeNet-5
	@$(bin)/python -m bench.plans --table bench/results/plans.json

docs: $(done)/docs
	$(call say,making the site)
	@NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --quiet
	@echo "zsu_fast: open build/site/index.html through a server: $(bin)/python -m http.server --directory build/site"

sources := $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh \
  $(addprefix tests/emulated_cuda/,*.h *.cpp *.cu cub/block/*.cuh))

lint: $(done)/tests $(done)/lint
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(bin)/clang-format --dry-run -Werror $(sources)

format: $(done)/lint
	@$(bin)/ruff check --fix .
	@$(bin)/ruff format .
	@$(bin)/clang-format -i $(sources)

clean:
	rm -rf build zsu_fast/lib
