"""Fingerprints of models and images for the record."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes (row-major, whatever its memory layout and device)."""
    digest = hashlib.sha256()
    _update(digest, "", tensor)
    return digest.hexdigest()


def model_digest(model: nn.Module) -> str:
    """SHA-256 of a model's state: names, dtypes, shapes and bytes of `model.state_dict()`."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            _update(digest, name, value)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
