"""Weights that a library has of its own, on the network: said before they are downloaded, and refused offline."""

from __future__ import annotations

import logging
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from zsu_fast.extras import require

LOG = logging.getLogger(__name__)
PATIENCE = 5.0
"""Seconds in which the host must answer at all. The libraries' own loaders wait and try again for a minute."""


@contextmanager
def own_weights(spec: str, url: str, cached: bool) -> Iterator[None]:
    """Around the call that loads them. url: where they are, or the host; cached: whether they need no network.

    Raises:
        OSError: the host does not answer, or the download failed; it names --weights.
    """
    host = urlsplit(url).netloc
    instead = "give a file with -w/--weights"
    if not cached:
        LOG.warning("no --weights: downloads those of %s from %s", spec, host)
        if not answers(url):
            raise OSError(f"MODEL: {spec} has no weights here, and {host} does not answer (offline?): {instead}")
    try:
        yield
    except OSError as error:
        raise OSError(f"MODEL: the weights of {spec} could not be had from {host}: {error}; or {instead}") from error


def answers(url: str, patience: float = PATIENCE) -> bool:
    """Whether the host says anything, be it no, within so many seconds, also of looking up its name."""
    said: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=patience).close()
        except OSError as error:
            # A refusal is an answer, and so is a certificate: the libraries may know it where this does not.
            if not isinstance(error, urllib.error.HTTPError) and not isinstance(
                getattr(error, "reason", None), ssl.SSLError
            ):
                return
        said.append(True)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    return bool(said)


def of_torch_hub(url: str) -> tuple[str, bool]:
    """Where a file that `torch.hub` loads is, and whether it is here already."""
    return url, (Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(urlsplit(url).path)).is_file()


def of_timm(config: Any) -> tuple[str, bool]:
    """Likewise of the configuration of timm's weights; they may be on the Hugging Face Hub. Offline as it is set."""
    if config is None or not config.hf_hub_id:
        return of_torch_hub(config.url) if config is not None and config.url else ("", True)
    hub = require("huggingface_hub", "models")
    file = config.hf_hub_filename or "pytorch_model.bin"
    names = (file, "model.safetensors", Path(file).with_suffix(".safetensors").name)
    found = [hub.try_to_load_from_cache(config.hf_hub_id.partition("@")[0], name) for name in names]
    return hub.constants.ENDPOINT, any(isinstance(path, str) for path in found) or hub.constants.HF_HUB_OFFLINE
