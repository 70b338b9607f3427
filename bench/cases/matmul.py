"""A matrix product times a factor per element, against ATen's: the product alone, and both in turn."""

from functools import partial

import torch
from torch import Tensor

from bench.cases.lrp import compiled
from bench.registry import Case, register
from zsu_fast.reference import matmul as reference


def arguments(device: torch.device, dtype: torch.dtype, *, m: int, n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    input, weight, factor = (torch.randn(*shape, device=device).to(dtype) for shape in ((m, k), (k, n), (m, n)))
    return input, weight, factor


def product(input: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    """The floor: what a plain backward pass computes."""
    return input @ weight


def product_then_multiply(input: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    return (input @ weight).mul_(factor)


def register_case(
    label: str, m: int, n: int, k: int, dtypes: tuple[torch.dtype, ...], devices: tuple[str, ...]
) -> None:
    register(
        Case(
            name=f"matmul_multiply/{label}",
            make=partial(arguments, m=m, n=n, k=k),
            run=torch.ops.zsu_fast.matmul_multiply,
            reference=reference.matmul_multiply,
            bytes=lambda input, weight, factor: input.nbytes + weight.nbytes + 2 * factor.nbytes,
            floors={"product alone": product},
            peers={
                "product, then multiply": product_then_multiply,
                "compiled": lambda *args: compiled(product_then_multiply)(*args),
            },
            tolerance={torch.float32: 16, torch.bfloat16: 2, torch.float16: 2},
            peers_tolerance={torch.float32: 16, torch.bfloat16: 3, torch.float16: 3},
            dtypes=dtypes,
            devices=devices,
        )
    )


# The backward pass through fc1 and fc2 of a ViT-B/16 with 8 images, small enough for any machine.
register_case("ViT-B fc1, 8 images", 8 * 197, 768, 3072, (torch.float32, torch.bfloat16), ("cpu", "cuda"))
register_case("ViT-B fc2, 8 images", 8 * 197, 3072, 768, (torch.float32, torch.bfloat16), ("cpu", "cuda"))
for _label, _m, _n, _k in (
    ("ViT-B fc1, 128 images", 128 * 197, 768, 3072),
    ("ViT-B fc2, 128 images", 128 * 197, 3072, 768),
    ("ViT-L fc1, 64 images", 64 * 197, 1024, 4096),
    ("ViT-L fc2, 64 images", 64 * 197, 4096, 1024),
    ("VGG fc1, 256 images", 256, 25088, 4096),
    ("4096", 4096, 4096, 4096),
    ("8192", 8192, 8192, 8192),
):
    register_case(_label, _m, _n, _k, (torch.bfloat16, torch.float16), ("cuda",))
