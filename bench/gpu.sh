#!/usr/bin/env bash
# bench/gpu.sh OUTDIR: everything that needs a GPU, on a machine that has one: tests, benchmarks, the same bits in every
# run, CUDA graphs, compute-sanitizer. Needs torch, numpy, safetensors and pytest; no network. What else is not there is
# skipped, and the logs say so. Libraries in zsu_fast/lib are used if they fit, otherwise they are built (cmake, nvcc,
# g++; the fused GEMM needs CUTLASS's headers: ZSU_CUTLASS_DIR, or pip's nvidia-cutlass).
# Stays below ZSU_GPU_SECONDS (540) in all; the most important comes first, and what time does not suffice for is named.
# Exits non-zero if anything failed or was left out; OUTDIR has a log of each part, summary.json and the figures.
set -uo pipefail
out=$(mkdir -p "${1:?usage: bench/gpu.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD"
python=${PYTHON:-python3}
budget=${ZSU_GPU_SECONDS:-540}
failed=0
summary=()

part() { # part NAME SECONDS COMMAND...: run it for at most that long, keep its output as NAME.log
  local name=$1 limit=$2 start=$SECONDS left=$((budget - SECONDS)) verdict=ok
  shift 2
  echo "=== $name"
  ((limit > left)) && limit=$left
  if ((limit <= 0)); then
    verdict="left out: no time left"
  else
    # Through another shell, which has the functions exported: timeout itself knows commands only.
    timeout --kill-after=10 "$limit" bash -c '"$@"' part "$@" > "$out/$name.log" 2>&1
    case $? in
      0) ;;
      77) verdict="skipped: $(tail -n 1 "$out/$name.log")" ;;
      124 | 137) verdict="stopped after $limit s" ;;
      *) verdict=failed ;;
    esac
    tail -n 5 "$out/$name.log"
  fi
  case $verdict in ok | skipped*) ;; *) failed=1 ;; esac
  echo "--- $verdict, $((SECONDS - start)) s, $((budget - SECONDS)) s left"
  summary+=("$name|$verdict|$((SECONDS - start))")
}

machine() {
  nvidia-smi || return
  $python -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda, torch.cuda.get_device_name())' ||
    return
  for module in cutlass_library hypothesis xdist zennit captum lxt timm torchvision transformers; do
    $python -c "import importlib.util as i, sys; sys.exit(i.find_spec('$module') is None)" ||
      echo "skipped: what needs $module, which is not here"
  done
}

fit() { # are the libraries there, of this version, for this GPU, with every op?
  $python - <<'PYTHON'
import sys
import torch, zsu_fast

info = zsu_fast.build_info()
cuda = info["libraries"]["cuda"]
if not cuda["loaded"]:
    sys.exit(f"not loaded: {cuda['reason']}")
major, minor = torch.cuda.get_device_capability()
missing = [name for name, backends in info["ops"].items() if set(backends.values()) != {"compiled"}]
built = cuda["built"]["architectures"].split()
here = any(a.split("-")[0].rstrip("a") in (f"{major}{minor}", "native") or a == f"{major}0-real" for a in built)
print(cuda["built"])
sys.exit(f"built for {built}, this GPU is {major}.{minor}; ops without a kernel: {missing}" if missing or not here else 0)
PYTHON
}

libraries() {
  fit && return
  cmake -S . -B build/gpu -DPython_EXECUTABLE="$(command -v "$python")" -DZSU_CUDA=ON -DZSU_CUDA_ARCHS=native \
    -DZSU_CUTLASS_DIR="${ZSU_CUTLASS_DIR:-}" &&
    cmake --build build/gpu --parallel "$(nproc)" && cmake --install build/gpu --prefix zsu_fast && fit
}

tests() { # tests ARGUMENTS...: pytest, in parallel if it can
  local workers=()
  $python -c 'import xdist' 2> /dev/null && workers=(--numprocesses=4)
  $python -m pytest -q -p no:cacheprovider -m cuda "${workers[@]}" "$@"
}

sanitize() { # sanitize TOOL TESTS: watches every access of every kernel, at some hundred times the cost
  command -v compute-sanitizer > /dev/null || { echo "no compute-sanitizer here"; return 77; }
  compute-sanitizer --tool "$1" --error-exitcode 3 $python -c 'import torch; torch.zeros(1, device="cuda")' ||
    { echo "compute-sanitizer does not work here"; return 77; }
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 ZSU_FAST_TEST_RUNS=2 compute-sanitizer --tool "$1" --error-exitcode 3 \
    $python -m pytest -q -x -p no:cacheprovider -m cuda tests/ops/test_reproducible.py -k "$2"
}
export -f machine fit libraries tests sanitize
export python

part machine 30 machine
part libraries 300 libraries
part tests 180 tests --durations=20 tests/test_build.py tests/ops tests/lrp tests/unlearn tests/bench \
  --deselect tests/ops/test_reproducible.py --deselect tests/lrp/test_graphs.py --deselect tests/lrp/test_plan_backends.py
part reproducible 90 tests tests/ops/test_reproducible.py tests/lrp/test_graphs.py tests/lrp/test_plan_backends.py
part benchmarks 120 $python -m bench run --without 'relevance/*' --device cuda --seconds 0.2 --no-peer compiled \
  --at-most 100 --json "$out/ops_cuda.json"
part models 90 $python -m bench run --filter 'relevance/*' --device cuda --seconds 0.5 --at-most 60 \
  --json "$out/models_cuda.json"
part memcheck 90 sanitize memcheck same_bits
# Not the GEMM: racecheck does not know the asynchronous copies and barriers that it is made of.
part racecheck 90 sanitize racecheck 'same_bits and not matmul'
part against_compiled 120 $python -m bench run --without 'relevance/*' --device cuda --seconds 0.1 --peer compiled \
  --at-most 80 --json "$out/ops_cuda_compiled.json"

printf '%s\n' "${summary[@]}" | $python -c '
import json, sys
rows = [line.rstrip("\n").split("|") for line in sys.stdin]
print(json.dumps([{"part": n, "verdict": v, "seconds": int(s)} for n, v, s in rows], indent=1))' > "$out/summary.json"
echo "=== $SECONDS s of $budget; results in $out"
printf '%s\n' "${summary[@]}" | column -t -s '|' 2> /dev/null || printf '%s\n' "${summary[@]}"
exit $failed
