"""The compiled libraries are in use, the package says so truthfully, and it works without them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zsu_fast
from zsu_fast.ops import _library, _load
from zsu_fast.ops._library import define

ROOT = Path(__file__).resolve().parent.parent
needs_libraries = pytest.mark.skipif(
    os.environ.get("ZSU_FAST_NATIVE") == "0", reason="compiled libraries are switched off by ZSU_FAST_NATIVE=0"
)


def run(code: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, with the folder of the source tree on its path."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("ZSU_FAST_")}
    variables |= {"PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@needs_libraries
def test_the_tests_run_the_compiled_cpu_library() -> None:
    """Else every other test would hold the reference against itself."""
    assert _load.cpu_loaded, _load.errors
    for name in _library.names:
        assert zsu_fast.build_info()["ops"][name]["cpu"] == "compiled", name


@needs_libraries
def test_found_wherever_python_is_started() -> None:
    """Not only in the source tree, where these tests run."""
    code = "import warnings; warnings.simplefilter('error'); from zsu_fast.ops import _load; assert _load.cpu_loaded"
    run(code, Path("/"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.cuda
@needs_libraries
def test_the_tests_run_the_compiled_cuda_library() -> None:
    assert _load.cuda_loaded, _load.errors
    assert {backends["cuda"] for backends in zsu_fast.build_info()["ops"].values()} == {"compiled"}


@needs_libraries
def test_build_info_with_libraries() -> None:
    info = zsu_fast.build_info()
    assert json.loads(json.dumps(info)) == info
    assert info["version"] == zsu_fast.__version__
    assert info["torch"]["running"] == torch.__version__
    cpu = info["libraries"]["cpu"]
    assert cpu["loaded"]
    assert Path(cpu["path"]).is_file()
    assert cpu["reason"] is None
    assert cpu["built"]["version"] == zsu_fast.__version__
    if not torch.cuda.is_available():
        assert not info["libraries"]["cuda"]["loaded"]
        assert "CUDA" in info["libraries"]["cuda"]["reason"]


def test_switched_off_every_op_runs_from_its_reference_without_a_warning() -> None:
    code = (
        "import warnings; warnings.simplefilter('error'); import json, zsu_fast, torch\n"
        "zsu_fast.ops.topk_mask_(w := torch.arange(6.0), w.clone(), 2); assert w.tolist() == [0, 1, 2, 3, 0, 0], w\n"
        "print(json.dumps(zsu_fast.build_info()))"
    )
    info = json.loads(run(code, ZSU_FAST_NATIVE="0").stdout)
    assert {backend for backends in info["ops"].values() for backend in backends.values()} == {"reference"}
    for library in info["libraries"].values():
        assert not library["loaded"]
        assert "ZSU_FAST_NATIVE=0" in library["reason"]


def test_no_libraries_is_one_warning_and_works(tmp_path: Path) -> None:
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always'); import zsu_fast, torch\n"
        "    zsu_fast.ops.topk_count(torch.eye(3), 1)\n"
        "print(len([w for w in caught if 'zsu_fast' in str(w.message)]), caught[0].message)"
    )
    out = run(code, ZSU_FAST_LIBRARIES=str(tmp_path)).stdout
    assert out.startswith("1 zsu_fast runs from its (slower) PyTorch reference")
    assert "zsu_fast_cpu: not found" in out


def test_a_broken_library_is_reported_and_replaced_by_the_reference(tmp_path: Path) -> None:
    (tmp_path / "libzsu_fast_cpu.so").write_bytes(b"not a library")
    code = (
        "import json, zsu_fast, torch\n"
        "zsu_fast.ops.topk_count(torch.eye(3), 1)\n"
        "print(json.dumps(zsu_fast.build_info()))"
    )
    done = run(code, ZSU_FAST_LIBRARIES=str(tmp_path))
    cpu = json.loads(done.stdout)["libraries"]["cpu"]
    assert not cpu["loaded"]
    assert "libzsu_fast_cpu.so" in cpu["reason"]
    assert cpu["reason"] in done.stderr  # the warning


WITHOUT_SOURCE_TREE = """
import json, sys, warnings
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
warnings.simplefilter("ignore")
import zsu_fast
info = zsu_fast.build_info()
print(json.dumps([zsu_fast.__file__, info["libraries"]["cpu"], info["ops"]["topk_count"]["cpu"]]))
"""


@needs_libraries
@pytest.mark.parametrize("version", [zsu_fast.__version__, "0.0.1"])
def test_the_wheel_of_the_cpu_libraries_is_used_if_it_has_the_version(tmp_path: Path, version: str) -> None:
    package = Path(zsu_fast.__file__).parent
    shutil.copytree(package, tmp_path / "zsu_fast", ignore=shutil.ignore_patterns("lib", "__pycache__"))
    (tmp_path / "zsu_fast_cpu").mkdir()
    (tmp_path / "zsu_fast_cpu" / "lib").symlink_to(Path(_load.paths["zsu_fast_cpu"]).parent)
    metadata = tmp_path / f"zsu_fast_cpu-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.4\nName: zsu-fast-cpu\nVersion: {version}\n")
    module, cpu, backend = json.loads(run(WITHOUT_SOURCE_TREE, tmp_path, PYTHONPATH=str(tmp_path)).stdout)
    assert module.startswith(str(tmp_path))
    if version == zsu_fast.__version__:
        assert cpu["loaded"] and cpu["path"].startswith(str(tmp_path / "zsu_fast_cpu")) and backend == "compiled"
    else:
        assert not cpu["loaded"] and backend == "reference"
        assert f"zsu-fast-cpu 0.0.1 is installed beside zsu-fast {zsu_fast.__version__}" in cpu["reason"]


LEVELS = """
import hashlib, sys
import numpy, torch
import zsu_fast
from zsu_fast.ops import _load

generator = numpy.random.default_rng(0)  # torch's own generator gives other bits at another level

def draw(*shape):
    return torch.from_numpy(generator.standard_normal(shape)).to(dtype)

for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    results = torch.ops.zsu_fast.lrp_gamma_pass(
        draw(4, 9, 70), draw(4, 9, 70), draw(4, 9, 70).abs(), None, None, 0.25, 1e-6, 1, 1, True)
    results += tuple(torch.ops.zsu_fast.activation_gate(draw(4, 333), 4 * draw(4, 333), code) for code in range(8))
    results += (torch.ops.zsu_fast.layer_norm_gate(draw(4, 333), draw(333), draw(4), 1),)
    print(dtype, *(hashlib.sha256(t.double().numpy().tobytes()).hexdigest() for t in results))
print(_load.paths, file=sys.stderr)
"""


@needs_libraries
def test_all_instruction_set_levels_give_the_same_bits() -> None:
    # A level that the processor does not have is an illegal instruction, in torch itself too.
    count = {"AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)
    outputs = [run(LEVELS, ATEN_CPU_CAPABILITY=level) for level in ("default", "avx2", "avx512")[:count]]
    assert len({output.stdout for output in outputs}) == 1
    assert len({output.stderr for output in outputs}) == count  # libraries


class TestDefine:
    def test_refuses_a_schema_that_writes_where_mutates_does_not_say_so(self) -> None:
        with pytest.raises(ValueError, match="mutates says"):
            define("never_defined_(Tensor(a!) x) -> ()", lambda x: None, lambda x: None)

    def test_refuses_an_op_that_writes_and_returns(self) -> None:
        with pytest.raises(ValueError, match="must return"):
            define("never_defined_(Tensor(a!) x) -> Tensor(a!)", lambda x: x, lambda x: x, mutates=(0,))

    def test_every_op_that_writes_counts_versions(self) -> None:
        """torch itself does not check this, and without it autograd is silently wrong."""
        weight = torch.ones(3, 3)
        for op, arguments in {
            "topk_mask_": (weight, torch.rand(3, 3), 2, False, 0.0, None, None),
            "mask_neurons_": ([weight], [torch.tensor([1])], [0], [], [], 0, 0.0),
        }.items():
            before = weight._version
            getattr(torch.ops.zsu_fast, op)(*arguments)
            assert weight._version > before, op  # the reference's own writes count as well
        writing = [name for name in _library.names if name.endswith("_")]
        assert sorted(writing) == ["mask_neurons_", "topk_mask_"]
