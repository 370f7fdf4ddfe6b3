"""Models and data of strangers run no code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_sdft.policy import Policy
from tests import strangers
from tests.test_safety import command, config, mark, write

__all__ = ["command", "config", "mark"]


@pytest.mark.parametrize("kind", ["code of the model", "code of the tokenizer", "pickled weights"])
def test_nothing_that_comes_with_a_model_is_run(
    kind: str, config: Path, command: Callable[..., str], tmp_path: Path, mark: Path
) -> None:
    folder = strangers.model_folder(kind, tmp_path, mark)
    said = [
        command("export", "--model", folder, "--output", tmp_path / "out"),
        command("fit", "--config", config, "--model.model", folder, "--model.pretrained=true"),
    ]
    expected = "safetensors" if kind == "pickled weights" else "add trust_remote_code=true to the command line"
    for message in said:
        assert message.startswith("error: ")
        assert repr(str(folder)) in message
        assert expected in message


def test_a_model_that_transformers_knows_needs_none_of_the_code_that_comes_with_it(tmp_path: Path, mark: Path) -> None:
    folder = strangers.model_folder("code of the model", tmp_path, mark)
    strangers.change(folder / "config.json", model_type="llama")
    assert type(Policy.load(str(folder)).model).__module__.startswith("transformers.models.llama")


def test_code_of_a_model_is_run_if_that_is_typed_and_only_then(
    command: Callable[..., str], tmp_path: Path, mark: Path
) -> None:
    folder = strangers.model_folder("code of the model", tmp_path, mark)
    exports = ["export", "--model", folder, "--output", tmp_path / "out"]
    asks = write(tmp_path / "asks.yaml", trust_remote_code=True)
    said = command(*exports, "--config", asks)
    assert f"error: {asks}: trust_remote_code=True runs code that comes with a model" in said
    assert not mark.exists()
    # in a process of its own, for transformers keeps what it has loaded
    typed = [sys.executable, "-m", "lightning_sdft", *map(str, exports), "--trust_remote_code", "true"]
    subprocess.run(typed, env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}, check=True)
    mark.unlink()  # it was there: the test's files are what they say


def test_scripts_beside_data_are_not_run(config: Path, command: Callable[..., str], tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "stranger_rows"
    folder.mkdir()
    script = strangers.module("stranger_rows", folder, mark)
    for source in (folder, script, "./stranger_rows/stranger_rows.py"):
        rows = ["--data=JsonDataModule", "--data.train", source]
        assert command("fit", "--config", config, *rows).startswith("error: ")
