"""Checkpoints of strangers run no code."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.core import saving
from torch import distributed

from lightning_sdft import JsonDataModule, SDFTModule, StringSkillsDataModule
from lightning_sdft.checkpoint import describe_method
from lightning_sdft.checkpoint.builders import LIGHTNINGS
from lightning_sdft.cli import entry_point
from lightning_sdft.distributed.strategy import FSDP2Strategy
from lightning_sdft.errors import CheckpointError, PolicyError, SettingError
from tests import strangers
from tests.cli_runs import DATA, MODEL, TRAINER
from tests.evaluation.task_files import folder as tasks

__all__ = ["tasks"]

QUIET = {**TRAINER, "logger": False, "enable_checkpointing": False}


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Does not exist unless a stranger's code has run."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of a short run."""
    monkeypatch.chdir(tmp_path)
    model = {"class_path": "SDFTModule", "init_args": MODEL}
    data = {"class_path": "StringSkillsDataModule", "init_args": DATA}
    return write(tmp_path / "config.yaml", model=model, data=data, trainer=QUIET)


def write(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs the console script with arguments, and returns with what error it ended."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["lightning-sdft", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            entry_point()
        return str(ended.value)

    return run


# Checkpoints

ZIP = strangers.CHECKPOINTS[0]


@pytest.mark.parametrize(
    ("subcommand", "kind"),
    [
        *(("fit", kind) for kind in strangers.CHECKPOINTS),
        *((each, ZIP) for each in ("validate", "test", "predict")),
    ],
)
def test_lightnings_commands_run_nothing_of_a_checkpoint(
    subcommand: str, kind: str, config: Path, command: Callable[..., str], tmp_path: Path, mark: Path
) -> None:
    path = strangers.checkpoint(kind, tmp_path, mark)
    message = command(subcommand, "--config", config, "--ckpt_path", path)
    assert message.startswith("error: ")
    assert str(path) in message
    if kind in (ZIP, "shards: rest"):
        assert "holds more than data" in message
        assert "nothing was run. Use a checkpoint that lightning_sdft has written" in message
    if kind == "shards: value":  # which is not read where weights are not in parts, as optimizer states are not
        assert "optimizer_states" in message
        assert "go on with trainer.strategy=fsdp2" in message


@pytest.mark.parametrize("kind", strangers.CHECKPOINTS[:2])
def test_our_own_commands_run_nothing_of_a_checkpoint(
    kind: str, command: Callable[..., str], tasks: Path, tmp_path: Path, mark: Path
) -> None:
    path = strangers.checkpoint(kind, tmp_path, mark)
    for arguments in (["export", "--output", tmp_path / "out"], ["prior", "--tasks=skills", f"--include_path={tasks}"]):
        assert f"the checkpoint {str(path)!r}" in command(*arguments, "--checkpoint", path)


@pytest.mark.parametrize("kind", strangers.CHECKPOINTS)
def test_the_intruders_would_run_if_they_were_let(kind: str, tmp_path: Path) -> None:
    """What the tests above would miss if the files were harmless."""
    path = strangers.checkpoint(kind, tmp_path, tmp_path / "ran")
    if kind == ZIP:
        torch.load(path, weights_only=False)
    elif kind == "bare pickle":
        pickle.loads(path.read_bytes())
    elif kind == "shards: value":
        distributed.checkpoint.load({strangers.VALUE: 0.0}, checkpoint_id=path)
    elif kind == "shards: index":
        with suppress(AttributeError):  # of what the intruder returns
            distributed.checkpoint.FileSystemReader(path).read_metadata()
    else:
        torch.load(next(path.glob("*.pt")), weights_only=False)
    assert (tmp_path / "ran").exists()


def test_nobody_can_choose_to_run_a_checkpoint(
    config: Path, command: Callable[..., str], tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = strangers.checkpoint(ZIP, tmp_path, mark)
    asks = write(tmp_path / "asks.yaml", weights_only=False, ckpt_path=str(path))
    command("fit", "--config", config, "--config", asks)
    assert "a run has no setting weights_only" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="holds more than data"):
        Trainer(**QUIET).fit(
            SDFTModule(**MODEL), datamodule=StringSkillsDataModule(**DATA), ckpt_path=path, weights_only=False
        )


def test_checkpoint_from_a_server_is_data(
    config: Path, command: Callable[..., str], tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would read it with ``weights_only=False``."""
    path = strangers.checkpoint(ZIP, tmp_path, mark)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        assert "holds more than data" in command("fit", "--config", config, "--ckpt_path", url)
        with pytest.raises(CheckpointError, match="holds more than data"):
            SDFTModule.load_from_checkpoint(url)
        server.shutdown()


@pytest.mark.parametrize("kind", [kind for kind in strangers.CHECKPOINTS if kind not in ("bare pickle", "folder")])
def test_sharding_strategies_read_data_too(
    kind: str, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have ways of their own, around the one in which all others read."""
    for name, value in {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    path = strangers.checkpoint(kind, tmp_path, mark)
    strategy = FSDP2Strategy(process_group_backend="gloo")
    said = r"names pathlib.*, which no index does" if kind == "shards: index" else r"holds more than data \(getattr\)"
    try:
        with pytest.raises(CheckpointError, match=rf"stranger.ckpt.*{said}.* nothing was run"):
            Trainer(**QUIET, devices=1, strategy=strategy).fit(
                SDFTModule(**MODEL), datamodule=StringSkillsDataModule(**DATA), ckpt_path=path
            )
    finally:
        distributed.destroy_process_group()


# Checkpoints in Python


def saved(path: Path, **arguments: Any) -> Path:
    """A checkpoint of an untrained module with other hyper-parameters."""
    module = SDFTModule(**MODEL)
    module.configure_model()
    content = {
        "state_dict": module.state_dict(),
        "lightning_sdft": describe_method("SDFTModule", "zoo/laptop"),
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": {**module.hparams, **arguments},
        "datamodule_hyper_parameters": arguments,
    }
    torch.save(content, path)
    return path


def test_hyperparameters_import_nothing_of_a_stranger(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers.module("stranger_parameters", tmp_path, mark)
    monkeypatch.syspath_prepend(tmp_path)
    guest = {"class_path": "stranger_parameters.Guest"}
    by_lightning = {"_instantiator": LIGHTNINGS}
    own = {"_class_path": "lightning_sdft.modules.sdft.SDFTModule", "divergence": guest}
    path = saved(tmp_path / "a.ckpt", **by_lightning, **own)
    expected = r"divergence names stranger_parameters\.Guest, .*trusting\('stranger_parameters'\)"
    with pytest.raises(SettingError, match=expected):
        SDFTModule.load_from_checkpoint(path)
    own = {"_class_path": "lightning_sdft.data.json_rows.JsonDataModule", "train": "rows.json", "grader": guest}
    path = saved(tmp_path / "b.ckpt", **by_lightning, **own)
    with pytest.raises(SettingError, match=r"grader names stranger_parameters\.Guest"):
        JsonDataModule.load_from_checkpoint(path)


@pytest.fixture
def credulous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning as it was before it had lists of what a checkpoint may name."""

    class Everything(set[str]):
        def __contains__(self, _: object) -> bool:
            return True

    monkeypatch.setattr(saving, "_ALLOWED_INSTANTIATORS", Everything())
    monkeypatch.setattr(saving, "_is_imported_subclass", lambda *_: True)


@pytest.mark.usefixtures("credulous")
def test_a_checkpoint_cannot_choose_what_builds_its_module(
    command: Callable[..., str], config: Path, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers.module("stranger_builder", tmp_path, mark)
    monkeypatch.syspath_prepend(tmp_path)
    path = saved(tmp_path / "a.ckpt", _instantiator="stranger_builder.build")
    expected = r"'stranger_builder.build' should be called .* nothing was run. Use a checkpoint that"
    with pytest.raises(CheckpointError, match=expected):
        SDFTModule.load_from_checkpoint(path)
    with pytest.raises(CheckpointError, match=expected):
        StringSkillsDataModule.load_from_checkpoint(path)
    with path.open("rb") as file, pytest.raises(CheckpointError, match=expected):
        SDFTModule.load_from_checkpoint(file)
    assert "stranger_builder" in command("fit", "--config", config, "--ckpt_path", path)
    assert "stranger_builder" in command("export", "--checkpoint", path, "--output", tmp_path / "out")
    content = torch.load(path, weights_only=True)
    content["module_arguments"] = content["hyper_parameters"]
    content["hyper_parameters"] = {"_class_path": "stranger_builder.Guest"}
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=expected):
        SDFTModule.load_from_checkpoint(tmp_path / "b.ckpt")
    path = saved(tmp_path / "c.ckpt", _instantiator=LIGHTNINGS, _class_path="stranger_builder.Guest")
    with pytest.raises(SettingError, match=r"names stranger_builder\.Guest"):
        SDFTModule.load_from_checkpoint(path)


def test_a_checkpoint_cannot_trust_code_that_comes_with_a_model(tmp_path: Path, mark: Path) -> None:
    folder = strangers.model_folder("code of the model", tmp_path, mark)
    path = saved(tmp_path / "a.ckpt", model=str(folder), trust_remote_code=True)
    with pytest.raises(PolicyError, match="none of it was run"):
        SDFTModule.load_from_checkpoint(path)


def test_loading_in_python_is_loading_data(tmp_path: Path, mark: Path) -> None:
    path = strangers.checkpoint(ZIP, tmp_path, mark)
    with pytest.raises(CheckpointError, match="holds more than data"):
        SDFTModule.load_from_checkpoint(path, weights_only=False)
    with pytest.raises(CheckpointError, match="holds more than data"):
        StringSkillsDataModule.load_from_checkpoint(path, weights_only=False)
