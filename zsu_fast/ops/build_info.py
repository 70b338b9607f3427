"""What is installed, what of it runs here, and why the rest does not."""

import platform
from typing import Any

import torch

from zsu_fast.ops import _library, _load
from zsu_fast.version import __version__


def build_info() -> dict[str, Any]:
    """Facts about this installation, for bug reports and for checking that the compiled kernels are in use.

    Returns:
        A dict of JSON-able values:

        - `version`, `python`; `torch`: {"running", "built_against" (None without a CPU library)}
        - `libraries`: for each of "cpu", "cuda" and "native" (the processor's facts, in builds from source alone):
          {"loaded": bool, "path": str or None, "reason": why it is not loaded, or None, "built": what the library says
          of its own build, or None}
        - `cuda`: {"usable": is there a device}
        - `cpu`: {"capability": the instruction set that torch uses, "features": {name: bool}, empty without "native"}
        - `ops`: name -> {"cpu": backend, "cuda": backend}, where backend is "compiled" or "reference"
    """
    native = _load.native
    cpu = _library_facts("zsu_fast_cpu", _load.cpu_loaded, "cpu_build_facts")
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": {"running": torch.__version__, "built_against": (cpu["built"] or {}).get("torch")},
        "libraries": {
            "cpu": cpu,
            "cuda": _library_facts("zsu_fast_cuda", _load.cuda_loaded, "cuda_build_facts"),
            "native": {
                "loaded": native is not None,
                "path": getattr(native, "__file__", None),
                "reason": _load.errors.get("_native"),
                "built": None if native is None else {"version": native.VERSION, "compiler": native.COMPILER},
            },
        },
        "cuda": {"usable": torch.cuda.is_available()},
        "cpu": {
            "capability": torch.backends.cpu.get_cpu_capability(),
            "features": {} if native is None else dict(native.cpu_features()),
        },
        "ops": {name: {"cpu": _backend(name, "CPU"), "cuda": _backend(name, "CUDA")} for name in _library.names},
    }


def _backend(name: str, key: str) -> str:
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key(f"zsu_fast::{name}", key)
    return "compiled" if compiled else "reference"


def _library_facts(name: str, loaded: bool, op: str) -> dict[str, Any]:
    built = None
    if loaded:
        built = dict(fact.split("=", 1) for fact in getattr(torch.ops.zsu_fast, op)().split(";"))
    return {"loaded": loaded, "path": _load.paths.get(name), "reason": _load.errors.get(name), "built": built}
