"""What the command line does with checkpoints, and Lightning's does not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

import lightning_sdft
from lightning_sdft import SDFTModule
from lightning_sdft.cli import entry_point
from lightning_sdft.commands.fit import main
from lightning_sdft.commands.noise import keep_quiet
from lightning_sdft.errors import CheckpointError, SettingError
from tests.cli_runs import MODEL, config, config_file, trusted

__all__ = ["config_file", "trusted"]


def test_checkpoint_does_not_override_what_was_typed(config_file: Path) -> None:
    """Trap 2: LightningCLI would put the checkpoint's hyper-parameters over the command line."""
    main(["fit", "--config", str(config_file)])
    checkpoint = "runs/run/checkpoints/last.ckpt"
    arguments = ["--ckpt_path", checkpoint, "--model.init_args.warmup_steps=1", "--trainer.max_steps=4"]
    resumed = main(["fit", "--config", str(config_file), *arguments])
    assert resumed.model.warmup_steps == 1
    assert resumed.trainer.global_step == 4


def test_last_starts_a_run_goes_on_with_it_and_evaluates_it(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning would look for it in the folder of a new run, and evaluate the base model without it."""
    logger = ["--trainer.logger.init_args.version=null", "--trainer.callbacks+=LastCheckpoints"]
    logger.append("--trainer.callbacks.every_n_train_steps=2")
    arguments = ["fit", "--config", str(config_file), *logger, "--ckpt_path", "last"]
    assert main(arguments).trainer.ckpt_path is None
    resumed = main([*arguments, "--trainer.max_steps=5"])
    assert str(resumed.trainer.ckpt_path).endswith("version_0/checkpoints/epoch=0-step=3.ckpt")
    assert resumed.trainer.global_step == 5
    assert [path.name for path in Path("runs/run").iterdir()] == ["version_0"]
    capsys.readouterr()
    tested = main(["test", "--config", str(config_file), *logger, "--ckpt_path", "last"])
    assert Path(str(tested.trainer.ckpt_path)).parent == Path("runs/run/version_0/checkpoints")
    assert f"Evaluation of {tested.trainer.ckpt_path}" in " ".join(capsys.readouterr().out.split())
    monkeypatch.chdir(config_file.parent.parent)
    with pytest.raises(CheckpointError, match="left no whole checkpoint"):
        main(["test", "--config", str(config_file), *logger, "--ckpt_path", "last"])


@pytest.mark.parametrize(("rank", "signum", "code"), [(0, 1, 129), (0, 2, 130), (1, 15, 0)])
def test_a_signal_is_an_exit_code_of_the_first_process(
    rank: int, signum: int, code: int, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = ["--trainer.callbacks+=tests.checkpoint.test_preemption.Signal"]
    callbacks += [f"--trainer.callbacks.signum={signum}", "--trainer.callbacks.hook=on_before_backward"]
    callbacks += ["--trainer.callbacks.number=2"]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "fit", "--config", str(config_file), *callbacks])
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    with pytest.raises(SystemExit) as end:
        entry_point()
    assert end.value.code == code


def test_checkpoint_of_a_command_line_run_loads_in_python_as_data(config_file: Path) -> None:
    """Traps 3 to 5: no pickled objects, arguments as attributes, the class that was trained."""
    main(["fit", "--config", str(config_file), "--model.init_args.divergence=ReverseKL"])
    path = Path("runs/run/checkpoints/last.ckpt")
    torch.load(path, weights_only=True)
    module = SDFTModule.load_from_checkpoint(path)
    assert type(module) is SDFTModule
    assert module.divergence == lightning_sdft.ReverseKL()
    assert module.max_completion_tokens == MODEL["max_completion_tokens"]


def test_a_second_run_may_use_the_same_folder(config_file: Path) -> None:
    """Trap 6: SaveConfigCallback refuses an existing file."""
    for _ in range(2):
        main(["fit", "--config", str(config_file)])
    assert yaml.safe_load(Path("runs/run/config.yaml").read_text())["model"]["class_path"].endswith("SDFTModule")


def test_what_a_run_goes_on_from_knows_of_the_best_of_the_same_validation(config_file: Path) -> None:
    """Weights alone of the best are none to go on from, and its accuracy would be forgotten."""
    best = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/accuracy", "mode": "max"}}
    callbacks = [{"class_path": "LastCheckpoints"}, best]
    sft = {"model": "zoo/laptop", "max_prompt_tokens": 16, "max_completion_tokens": 24}
    cli = main(
        {**config(callbacks=callbacks, max_steps=4), "model": {"class_path": "SFTModule", "init_args": sft}}, run=False
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    (last,) = Path(cli.trainer.log_dir or "").glob("checkpoints/step*.ckpt")
    states = torch.load(last, weights_only=True)["callbacks"]
    (found,) = [state for name, state in states.items() if "val/accuracy" in name]
    assert found["best_model_path"].endswith("step=4.ckpt")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_evaluation_writes_beside_the_run_whose_checkpoint_it_evaluates(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "mine"}}
    Path("run.yaml").write_text(yaml.safe_dump(config(logger=logger, max_steps=1)))
    main(["fit", "--config", "run.yaml"])
    (run,) = Path("runs/mine").iterdir()
    before, events = (run / "config.yaml").read_text(), set(run.glob("events*"))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        keep_quiet()
        main([command, "--config", "run.yaml", "--ckpt_path", str((run / "checkpoints" / "last.ckpt").absolute())])
    assert not [each for each in found if "dirpath" in str(each.message)]
    assert list(Path("runs/mine").iterdir()) == [run]
    assert (run / "config.yaml").read_text() == before
    if command == "predict":
        assert (run / "predictions.jsonl").is_file()
    else:
        assert len(set(run.glob("events*")) - events) == 1


@pytest.mark.parametrize(("command", "split"), [("validate", "validation"), ("test", "test"), ("predict", "test")])
def test_nothing_to_evaluate_is_said(command: str, split: str, config_file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "copy a b", "response": "a b"}) + "\n")
    settings = config() | {"data": {"class_path": "JsonDataModule", "init_args": {"train": str(rows)}}}
    config_file.write_text(yaml.safe_dump(settings))
    with pytest.raises(SettingError, match=f"nothing to {command}: JsonDataModule has no {split} set"):
        main([command, "--config", str(config_file)])
