"""Weights on the network: said before they are loaded, and refused within seconds where there is no network."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zsu_fast.cli import models, pretrained
from zsu_fast.cli.pretrained import answers, of_timm, of_torch_hub, own_weights

URL = "https://weights.example/net-1234.pth"


class Refuses(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refuses) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/absent"
        found.shutdown()


def test_a_refusal_is_an_answer(server: str) -> None:
    assert answers(server, 30)


def test_nobody_answers_at_a_closed_port_nor_where_one_is_silent() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert not answers(f"http://127.0.0.1:{port}/", 30)
        silent.listen()
        started = time.monotonic()
        assert not answers(f"http://127.0.0.1:{port}/", 0.2) and time.monotonic() - started < 20


def test_the_download_is_said_first(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pretrained, "answers", lambda url: True)
    with own_weights("timm:net", URL, cached=False):
        assert [record.getMessage() for record in caplog.records] == [
            "no --weights: downloads those of timm:net from weights.example"
        ]
    assert caplog.records[0].levelno == logging.WARNING
    with own_weights("timm:net", URL, cached=True):
        assert len(caplog.records) == 1


def test_offline_it_is_refused_and_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "answers", lambda url: False)
    refused = pytest.raises(OSError, match=r"net has no weights here, and weights.example does not answer.*--weights")
    with refused, own_weights("timm:net", URL, cached=False):
        raise AssertionError("it was loaded")


def test_a_download_that_fails_names_the_option() -> None:
    told = pytest.raises(
        OSError, match=r"weights of timm:net could not be had from weights.example: reset; .*--weights"
    )
    with told, own_weights("timm:net", URL, cached=True):
        raise ConnectionResetError("reset")


def test_what_is_here_already(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert of_torch_hub(URL) == (URL, False)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "net-1234.pth").touch()
    assert of_torch_hub(URL) == (URL, True)
    assert of_timm(SimpleNamespace(hf_hub_id=None, url=URL)) == (URL, True)
    assert of_timm(None) == ("", True)  # timm itself says that there are none
    asked = []

    def look(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return "/here" if name == "open_clip.safetensors" else None

    constants = SimpleNamespace(ENDPOINT="https://hub.example", HF_HUB_OFFLINE=False)
    hub = SimpleNamespace(constants=constants, try_to_load_from_cache=look)
    monkeypatch.setattr(pretrained, "require", lambda name, extra: hub)
    config = SimpleNamespace(hf_hub_id="timm/net@main", hf_hub_filename=None, url=None)
    assert of_timm(config) == ("https://hub.example", False) and ("timm/net", "model.safetensors") in asked
    config.hf_hub_filename = "open_clip.bin"
    assert of_timm(config) == ("https://hub.example", True)
    constants.HF_HUB_OFFLINE, config.hf_hub_filename = True, None
    assert of_timm(config) == ("https://hub.example", True)  # the hub's own refusal comes at once


def test_models_without_weights_ask_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With stand-ins for the two libraries, which load nothing."""
    monkeypatch.setattr(pretrained, "answers", lambda url: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    default = SimpleNamespace(url=URL, meta={"categories": ["a", "b"]})
    zoo = SimpleNamespace(
        list_models=lambda: ["net"], get_model_weights=lambda name: SimpleNamespace(DEFAULT=default),
        get_model=lambda name, **_: nn.Linear(2, 2),
    )  # fmt: skip
    timm = SimpleNamespace(
        is_model=lambda name: True, get_pretrained_cfg=lambda name: SimpleNamespace(hf_hub_id=None, url=URL),
        create_model=lambda name, **_: nn.Linear(2, 2),
    )  # fmt: skip
    libraries = {"torchvision": SimpleNamespace(models=zoo), "timm": timm}
    monkeypatch.setattr(models, "require", lambda name, extra: libraries[name])
    for name in libraries:
        with pytest.raises(OSError, match=rf"{name}:net has no weights here.*-w/--weights"):
            models.load_model(f"{name}:net")
