#!/usr/bin/env bash
# bench/gpu.sh OUTDIR: everything that needs a GPU, on a machine that has one. Needs torch, numpy, safetensors and pytest;
# no network. Libraries that are there already (zsu_fast/lib) are used, otherwise they are built (cmake, nvcc, g++).
# Exits non-zero if a test, the sanitizer or the correctness half of a benchmark failed; OUTDIR has the logs all the same.
set -uo pipefail
out=$(mkdir -p "${1:?usage: bench/gpu.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
python=${PYTHON:-python3}
failed=0

part() { # part NAME COMMAND...: run it, keep its output as NAME.log
  local name=$1 start=$SECONDS
  shift
  echo "=== $name"
  if "$@" > "$out/$name.log" 2>&1; then echo "ok, $((SECONDS - start)) s"; else failed=1; echo "FAILED, $((SECONDS - start)) s"; fi
  tail -n 5 "$out/$name.log"
}

machine() {
  nvidia-smi
  $python -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'
}

build() {
  cmake -S . -B build/gpu -DPython_EXECUTABLE="$(command -v "$python")" -DZSU_CUDA=ON -DZSU_CUDA_ARCHS=native &&
    cmake --build build/gpu --parallel "$(nproc)" && cmake --install build/gpu --prefix zsu_fast
}

sanitize() { # sanitize TOOL: it watches every access of every kernel, at some hundred times the cost
  command -v compute-sanitizer > /dev/null || { echo "skipped: no compute-sanitizer here"; return 0; }
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 1200 compute-sanitizer --tool "$1" --error-exitcode 3 \
    $python -m pytest -q -x -p no:cacheprovider -m cuda tests/ops -k \
    'not large and not many and not graph and not float64 and not bfloat16 and not compile and not opcheck'
}

part machine machine
[ -e zsu_fast/lib/libzsu_fast_cuda.so ] || part build build
part info $python -c 'import json, zsu_fast; print(json.dumps(zsu_fast.build_info(), indent=1))'
part loaded $python -m pytest -q -p no:cacheprovider tests/test_build.py -k 'compiled_cuda or every_op_that_writes'
part tests $python -m pytest -q -p no:cacheprovider -m cuda --durations=20 tests/ops tests/lrp \
  tests/unlearn tests/bench
part models $python -m bench run --filter 'relevance/*' --device cuda --json "$out/models_cuda.json"
part benchmarks $python -m bench run --without 'relevance/*' --device cuda --json "$out/ops_cuda.json"
part memcheck sanitize memcheck
part racecheck sanitize racecheck
echo "results in $out"
exit $failed
