"""torch's inductor, without what it compiles before it comes to what is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch._inductor import config, cpu_vec_isa


@contextmanager
def compiling_little(cache: Path) -> Iterator[None]:
    """Into this folder, without precompiled headers, trials of vector instructions, and a pool of processes."""
    settings = {
        "cpp_cache_precompile_headers": False, "aot_inductor.precompile_headers": False,
        "aot_inductor.compile_wrapper_opt_level": "O0", "compile_threads": 1,
    }  # fmt: skip
    with config.patch(settings), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))  # nobody else's, who may be writing to his
        patch.setattr(cpu_vec_isa, "valid_vec_isa_list", list)
        yield
