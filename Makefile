# make help says what there is. Everything is set up in .venv, from nothing.
PYTHON ?= python3
NATIVE_FLAGS ?=
export OMP_NUM_THREADS ?= 2

bin := .venv/bin

.PHONY: native
native:
	@test -f build/dev/build.ninja || PATH=$(CURDIR)/$(bin):$$PATH cmake -G Ninja -S . -B build/dev \
	  -DPython_EXECUTABLE=$(CURDIR)/$(bin)/python $(NATIVE_FLAGS)
	@PATH=$(CURDIR)/$(bin):$$PATH cmake --build build/dev --parallel 2
	@PATH=$(CURDIR)/$(bin):$$PATH cmake --install build/dev --prefix zsu_fast
