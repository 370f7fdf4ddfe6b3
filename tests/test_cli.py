"""The command line, and each trap of LightningCLI that it avoids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_sdft
from lightning_sdft import EMATeacher, LoRA, SDFTModule, StringSkillsDataModule
from lightning_sdft.commands.fit import main
from lightning_sdft.errors import SettingError
from tests.cli_runs import DATA, MODEL, TRAINER, Losses, config, config_file, losses, trusted
from tests.config_runs import in_folder

__all__ = ["config_file", "in_folder", "trusted"]


def test_command_line_and_python_give_the_same_losses(config_file: Path, tmp_path: Path) -> None:
    from_cli = main(["fit", "--config", str(config_file)])

    seed_everything(3, workers=True)
    module, data = SDFTModule(**MODEL), StringSkillsDataModule(**DATA)
    callbacks = [EMATeacher(teacher_rate=0.1), Losses(), ModelCheckpoint(tmp_path / "python")]
    trainer = Trainer(**TRAINER, callbacks=callbacks, logger=False)
    trainer.fit(module, datamodule=data)

    assert len(losses(trainer)) == 3
    assert losses(from_cli.trainer) == losses(trainer)


def test_without_run_the_objects_are_built_for_a_notebook(config_file: Path) -> None:
    cli = main(config(logger=False), run=False)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert len(losses(cli.trainer)) == 3


def test_short_class_names_and_overrides_on_the_command_line(config_file: Path) -> None:
    arguments = ["--model.init_args.divergence=JensenShannon", "--model.init_args.divergence.init_args.beta=0.3"]
    arguments += ["--model.init_args.sampling.temperature=0.7", "--trainer.max_steps=1"]
    module = main(["fit", "--config", str(config_file), *arguments]).model
    assert isinstance(module, SDFTModule)
    assert module.divergence == lightning_sdft.JensenShannon(0.3)
    assert module.sampling.temperature == 0.7


def test_divergence_of_the_most_probable_tokens_and_its_checkpoint(config_file: Path, tmp_path: Path) -> None:
    divergence = "--model.init_args.divergence"
    arguments = [f"{divergence}=TopK", f"{divergence}.k=5", f"{divergence}.support=union", f"{divergence}.tail=false"]
    arguments += [f"{divergence}.divergence=ReverseKL", "--trainer.max_steps=1"]
    cli = main(["fit", "--config", str(config_file), *arguments])
    expected = lightning_sdft.TopK(5, lightning_sdft.ReverseKL(), "union", tail=False)
    assert cli.model.divergence == expected
    cli.trainer.save_checkpoint(tmp_path / "top_k.ckpt")
    assert SDFTModule.load_from_checkpoint(tmp_path / "top_k.ckpt").divergence == expected


def test_adapter_and_its_checkpoint(config_file: Path, tmp_path: Path) -> None:
    arguments = ["--model.init_args.pretrained=true", "--model.init_args.lora.rank=2", "--trainer.max_steps=1"]
    arguments.append("--model.init_args.lora.target_modules=[q_proj, lm_head]")
    cli = main(["fit", "--config", str(config_file), *arguments])
    expected = LoRA(rank=2, target_modules=["q_proj", "lm_head"])
    assert cli.model.lora == expected
    cli.trainer.save_checkpoint(tmp_path / "adapter.ckpt")
    restored = SDFTModule.load_from_checkpoint(tmp_path / "adapter.ckpt")
    assert restored.lora == expected
    state = cli.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in restored.state_dict().items())
    tested = main(["test", "--config", str(config_file), *arguments, "--ckpt_path", str(tmp_path / "adapter.ckpt")])
    assert "test/accuracy" in tested.trainer.callback_metrics


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--model.init_args.divergence=Nonsense", "Nonsense"),
        ("--model.init_args.lora.rank=0", "LoRA: rank=0 must be a whole number >= 1"),
        ("--trainer.callbacks.teacher_rate=0", "teacher_rate=0.0 must be a number within (0, 1]"),
        ("--model.init_args.learning_rte=1", "learning_rte"),
    ],
)
def test_bad_settings_are_refused_by_name(
    argument: str, complaint: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", "--config", str(config_file), argument]
    if "teacher_rate" in argument:
        arguments = ["fit", "--config", str(config_file), "--trainer.callbacks+=EMATeacher", argument]
    with pytest.raises((SystemExit, ValueError)) as error:
        main(arguments)
    assert complaint in str(error.value) + capsys.readouterr().err


def test_optimizer_is_built_behind_the_model(config_file: Path) -> None:
    """Trap 1: LightningCLI's --optimizer would see a module without parameters; plain arguments do not."""
    with pytest.raises(SettingError, match="there is no option --optimizer"):
        main(["fit", "--config", str(config_file), "--optimizer=AdamW"])
    cli = main(["fit", "--config", str(config_file), "--model.init_args.weight_decay=0.1"])
    assert cli.trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.1


def test_printed_config_parses_to_itself(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    path = config_file
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(path), "--print_config"])
        printed.append(capsys.readouterr().out)
        path = config_file.with_name("printed.yaml")
        path.write_text(printed[-1])
    assert printed[0] == printed[1]
    assert "teacher_rate: 0.1" in printed[0]


def test_callbacks_plus_appends(config_file: Path) -> None:
    cli = main(["fit", "--config", str(config_file), "--trainer.callbacks+=RolloutTable"])
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]  # type: ignore[attr-defined]
    assert {"RolloutTable", "EMATeacher"} <= set(names)


@pytest.mark.parametrize(
    ("name", "setting", "before", "after"),
    [
        ("EMATeacher", "teacher_rate", 0.1, 0.2),
        ("GatedTeacher", "every_n_steps", 2, 3),
        ("TeacherWatch", "examples", 4, 5),
        ("PassAtK", "samples", 2, 4),
        ("PriorTasks", "limit", 3, 4),
        ("LastCheckpoints", "every_n_train_steps", 5, 6),
        ("KLToBase", None, None, None),
        ("PhaseProgressBar", None, None, None),
    ],
)
def test_a_callback_given_again_takes_the_place_of_the_first(
    name: str, setting: str | None, before: Any, after: Any, in_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = [
        {"class_path": name, "init_args": {} if setting is None else {setting: value}} for value in (before, after)
    ]
    with caplog.at_level("INFO"):
        trainer = main(config(logger=False, callbacks=given, enable_progress_bar=True), run=False).trainer
    kept = [each for each in trainer.callbacks if type(each).__name__ == name]  # type: ignore[attr-defined]
    assert len(kept) == 1
    assert setting is None or after in (vars(kept[0]).get(setting), vars(kept[0]).get(f"_{setting}"))
    assert f"trainer.callbacks has {name} twice: the later one takes the place" in caplog.text


def test_two_of_a_class_of_lightning_are_kept(in_folder: Path) -> None:
    given = [{"class_path": "ModelCheckpoint"}, {"class_path": "ModelCheckpoint", "init_args": {"monitor": "step"}}]
    trainer = main(config(logger=False, callbacks=given), run=False).trainer
    assert [each.monitor for each in trainer.checkpoint_callbacks] == [None, "step"]  # type: ignore[attr-defined]


def test_switching_logger_and_progress_bar_off_takes_their_callbacks_along(config_file: Path) -> None:
    """Trap 7: Lightning refuses a monitor without a logger, and a progress bar that is switched off."""
    callbacks = ["--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks+=PhaseProgressBar"]
    off = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    cli = main(["fit", "--config", str(config_file), *callbacks, *off])
    assert cli.trainer.global_step == 3


def test_without_a_logger_no_config_is_written_over_another(
    config_file: Path,
) -> None:
    before = config_file.read_text()
    main(["fit", "--config", config_file.name, "--trainer.logger=false", "--trainer.max_steps=1"])
    assert config_file.read_text() == before


def test_the_teachers_rate_in_a_config_can_be_overridden(config_file: Path) -> None:
    """Trap 8: callbacks forced by the command line could not be configured."""
    text = config_file.read_text()
    config_file.write_text(text.replace("teacher_rate: 0.1", "teacher_rate: 0.3"))
    cli = main(["fit", "--config", str(config_file)])
    rates = [each.teacher_rate for each in cli.trainer.callbacks if isinstance(each, EMATeacher)]  # type: ignore[attr-defined]
    assert rates == [0.3]
