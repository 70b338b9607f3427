"""python -m tests.emulated_cuda.build FOLDER: the CUDA kernels, compiled by a C++ compiler to run on the CPU.

FOLDER gets a libzsu_fast_cpu.so whose CPU kernels are the CUDA ones under an emulator, so that the tests of the ops
hold these against the references on any machine:

    ZSU_FAST_LIBRARIES=FOLDER python -m pytest tests/ops

It shows wrong indices, wrong arithmetic, barriers that not all threads reach, and, by running threads in another order
(ZSU_EMULATION_ORDER), missing ones. It does not show what depends on how real memory and warps behave, nor speed.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from zsu_fast.version import __version__

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMPILER = [os.environ.get("CXX", "g++"), *os.environ.get("CXXFLAGS", "").split()]
LEFT_OUT = {"build_facts_cuda.cu"}
FLAGS = ["-std=c++20", "-O1", "-g", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas", "-Wno-attributes"]
DEFINITIONS = {
    "USE_CUDA": "1",  # declares what emulator.cpp stands in for
    "TORCH_TARGET_VERSION": "0x020b000000000000",
    "ZSU_VERSION": f'"{__version__}"',
    "ZSU_TORCH_VERSION": f'"{torch.__version__}"',
    "ZSU_CPU_LEVEL": '"emulated CUDA"',
}
REPLACED = {
    r"STABLE_TORCH_LIBRARY_IMPL\(zsu_fast, CUDA, m\)": "STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CPU, m)",
    r"using DeviceGuard = [^;]*;": "struct DeviceGuard { explicit DeviceGuard(int) {} };",
    r"int64_t\{multiprocessor_count\(\)\} \* waves": "int64_t{2}",  # so that small tests go round the loop
    r"asm volatile\(\"st\.global.*?\);": "std::memcpy(target, &bits, sizeof(bits));",
}


def closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"no ) for {text[start : start + 40]!r}")


def kernel_before(text: str, end: int) -> int:
    """Where the name of a kernel, with its template arguments, begins that ends before `end`."""
    end = len(text[:end].rstrip())
    depth = 0
    while depth or re.match(r"[\w:>]", text[end - 1]):
        end -= 1
        depth += (text[end] == ">") - (text[end] == "<")
    return end


def arguments(text: str) -> list[str]:
    """What commas separate, but for those inside of brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts]


def translate(text: str) -> str:
    """CUDA's own syntax as C++; the ops as those of the CPU."""
    while (mark := text.find("<<<")) >= 0:
        end = text.index(">>>", mark)
        start, open_call = kernel_before(text, mark), text.index("(", end)
        close_call = closing(text, open_call)
        grid, block, *_ = arguments(text[mark + 3 : end])
        call = text[start:mark].rstrip() + text[open_call : close_call + 1]
        text = f"{text[:start]}::zsu::emulation::launch({grid}, {block}, [&] {{ {call}; }}){text[close_call + 1 :]}"
    for pattern, replacement in REPLACED.items():
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return text


def build(folder: Path) -> None:
    sources = [HERE / "emulator.cpp", ROOT / "csrc/common/build_facts_cpu.cpp"]
    translated = ""
    for path in sorted((ROOT / "csrc").glob("*/*")):
        if path.suffix not in (".h", ".cuh", ".cu") or path.name in LEFT_OUT:
            continue
        target = folder / "csrc" / path.relative_to(ROOT / "csrc")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".cu":
            target = target.with_suffix(".cpp")
            sources.append(target)
        text = translate(path.read_text())
        target.write_text(text)
        translated += text
    if lost := [replacement for replacement in REPLACED.values() if replacement not in translated]:
        raise ValueError(f"nothing in csrc/ became {', '.join(lost)}: has it been written in another way?")
    torch_root = Path(torch.__file__).parent
    command = [
        *COMPILER, *FLAGS, *(f"-D{name}={value}" for name, value in DEFINITIONS.items()),
        f"-I{HERE}", f"-I{folder / 'csrc'}", "-isystem", str(torch_root / "include"),
    ]  # fmt: skip

    def compile(source: Path) -> Path:
        result = folder / f"{source.stem}.o"
        subprocess.run([*command, "-c", str(source), "-o", str(result)], check=True)
        return result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compile, sources)]
    libraries = [f"-L{torch_root / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"]
    subprocess.run([*COMPILER, "-shared", *objects, "-o", str(folder / "libzsu_fast_cpu.so"), *libraries], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build(Path(sys.argv[1]).resolve())
