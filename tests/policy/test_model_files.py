"""Why a model cannot be loaded; tests/commands/test_refusals.py has what the command line says of each broken file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from lightning_sdft.errors import PolicyError
from lightning_sdft.modules import SFTModule
from lightning_sdft.policy.model_files import explaining, hub_problem
from lightning_sdft.policy.tokenizer import pretrained_source

HUB = {"pretrained_model_name_or_path": "mylab/model"}


class Hub(BaseHTTPRequestHandler):
    """A hub that answers, with nothing."""

    def do_HEAD(self) -> None:
        """Answer."""
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers_is_asked_for_models(hub: None) -> None:
    assert hub_problem() is None
    assert pretrained_source("mylab/model") == HUB


def test_without_the_hub_only_local_files_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    problem = hub_problem()
    assert problem is not None
    assert "http://127.0.0.1:1 does not answer (" in problem
    assert pretrained_source("mylab/model") == {**HUB, "local_files_only": True}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub_problem() == "HF_HUB_OFFLINE is set"


def test_what_the_hub_refuses_is_said_with_what_to_do(hub: None) -> None:
    with (
        pytest.raises(PolicyError, match=r"^no such model; correct the name 'mylab/model', or log in with `hf auth"),
        explaining("mylab/model", HUB),
    ):
        raise OSError("no such model.\nIf it is private, ...")


def test_a_package_that_is_too_old_for_gguf_is_no_fault_of_the_file(tmp_path: Path) -> None:
    source = {"pretrained_model_name_or_path": str(tmp_path), "gguf_file": "x.gguf"}
    with pytest.raises(PolicyError, match=r"pip install 'lightning-sdft\[gguf\]'"), explaining("x.gguf", source):
        raise ImportError("Please install gguf>=0.10.0")


@pytest.mark.parametrize("fault", [KeyError("x"), MemoryError(), torch.OutOfMemoryError("full")])
def test_faults_and_full_memory_stay_what_they_are(fault: Exception) -> None:
    source = pretrained_source("zoo/laptop-small")
    with pytest.raises(type(fault)), explaining("zoo/laptop-small", source):
        raise fault


def test_what_is_not_known_is_said_in_its_first_line() -> None:
    source = pretrained_source("zoo/laptop-small")
    with (
        pytest.raises(PolicyError, match=r"^the model 'zoo/laptop-small' cannot be loaded: odd; correct its files"),
        explaining("zoo/laptop-small", source),
    ):
        raise ValueError("odd.\nmore")


def test_python_gets_an_ordinary_error() -> None:
    with pytest.raises(PolicyError, match=r"no model in './nowhere'"):
        SFTModule("./nowhere")
