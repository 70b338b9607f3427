"""Finding and loading the compiled libraries; with none of them, every op runs from its reference."""

import importlib.metadata
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from zsu_fast.ops._library import library
from zsu_fast.version import __version__

# What a library says of its own build; only the libraries themselves implement these.
library.define("cpu_build_facts() -> str")
library.define("cuda_build_facts() -> str")

cpu_loaded = False
cuda_loaded = False
native: ModuleType | None = None
"""The processor's facts (`zsu_fast.lib._native`), in builds from source alone: it is tied to one version of Python."""
errors: dict[str, str] = {}
"""Why a library is not in use, by its name."""
paths: dict[str, str] = {}
"""The file of each library that is in use, by its name."""

_CPU, _CUDA = "zsu_fast_cpu", "zsu_fast_cuda"


def load_libraries() -> None:
    """Load what is there and usable here. Called once, after every op has been defined."""
    global cpu_loaded, cuda_loaded, native
    if os.environ.get("ZSU_FAST_NATIVE", "1") == "0":
        errors.update(dict.fromkeys((_CPU, _CUDA, "_native"), "switched off by ZSU_FAST_NATIVE=0"))
        return
    try:
        native = importlib.import_module("zsu_fast.lib._native")
    except ImportError as error:
        errors["_native"] = str(error)
    # The CPU library is built once per level of the instruction set: the highest that this processor has.
    levels = {"AVX2": ("x86-64-v3",), "AVX512": ("x86-64-v4", "x86-64-v3")}
    cpu_builds = [f"{_CPU}_{level}" for level in levels.get(torch.backends.cpu.get_cpu_capability(), ())]
    cpu_loaded = _load(_CPU, _find(_CPU, [*cpu_builds, _CPU]))
    if torch.cuda.is_available():
        cuda_loaded = _load(_CUDA, _find(_CUDA, [_CUDA]))
    else:
        errors[_CUDA] = "no usable CUDA device"
    unused = [name for name, usable in ((_CPU, True), (_CUDA, torch.cuda.is_available())) if usable and name in errors]
    if unused:
        reasons = "; ".join(f"{name}: {errors[name]}" for name in unused)
        warnings.warn(
            f"zsu_fast runs from its (slower) PyTorch reference, because a compiled library is not in use: {reasons}. "
            "ZSU_FAST_NATIVE=0 asks for that and silences this warning.",
            RuntimeWarning,
            stacklevel=2,
        )


def _load(name: str, path: Path | None) -> bool:
    if path is None:
        project = name.replace("_", "-")
        errors.setdefault(name, f"not found: pip install {project} brings it (`make native` in a source tree)")
        return False
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        errors[name] = str(error)
        return False
    built = getattr(torch.ops.zsu_fast, name.removeprefix("zsu_fast_") + "_build_facts")().partition(";")[0]
    if built != f"version={__version__}":
        # Its kernels may expect other arguments, and they have replaced the references already: going on is not safe.
        raise ImportError(f"{path} was built from {built}, this is zsu_fast {__version__}: build it again")
    paths[name] = str(path)
    return True


def _find(name: str, builds: list[str]) -> Path | None:
    """The first of the builds that the first folder with any of them has."""
    candidates = (
        folder / f"lib{build}{suffix}" for folder in _folders(name) for build in builds for suffix in (".so", ".dylib")
    )
    return next((path for path in candidates if path.is_file()), None)


def _folders(name: str) -> Iterator[Path]:
    """`lib/` of the package, where a build from source leaves its libraries; an editable install leaves them where it
    was installed, beside `_native`. Then the wheel of this name (zsu-fast-cpu, zsu-fast-cuda). ZSU_FAST_LIBRARIES names
    another folder instead, for builds under test."""
    if other := os.environ.get("ZSU_FAST_LIBRARIES"):
        yield Path(other)
        return
    yield Path(__file__).resolve().parent.parent / "lib"
    if native is not None and native.__file__:
        yield Path(native.__file__).parent
    try:
        wheel = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return
    if wheel.version == __version__:
        yield Path(str(wheel.locate_file(f"{name}/lib"))).absolute()
    else:  # asked before it is loaded: what is loaded cannot be taken back
        project = wheel.metadata["Name"]
        errors[name] = (
            f"{project} {wheel.version} is installed beside zsu-fast {__version__}, which it does not fit: "
            f"pip install {project}=={__version__}"
        )
