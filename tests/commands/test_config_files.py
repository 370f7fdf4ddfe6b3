"""The base that every run stands on, where it is found, and files that stand on others."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.commands import fit as command_line
from lightning_sdft.commands.config_files import base_config, config_file, included_files
from lightning_sdft.commands.fit import main
from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.runs.run import read_parts
from tests.config_runs import CONFIGS, ROOT, files, in_folder, rows, stand_in

__all__ = ["in_folder", "rows", "stand_in"]

SMALL = {"train_size": 8, "validation_size": 2, "test_size": 2, "prior_size": 1, "batch_size": 4}
MODEL = {"model": "zoo/laptop", "max_prompt_tokens": 16, "max_completion_tokens": 24}
OWN: dict[str, Any] = {
    "model": {"class_path": "SFTModule", "init_args": MODEL},
    "data": {"class_path": "StringSkillsDataModule", "init_args": SMALL},
    "trainer": {"accelerator": "cpu"},
}


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def names(trainer: Any) -> list[str]:
    return [type(each).__name__ for each in trainer.callbacks]


# Where the base is


@pytest.mark.parametrize("place", ["package/configs", "configs"])
def test_base_is_found_in_a_wheel_and_in_a_clone(place: str, tmp_path: Path) -> None:
    file = write(tmp_path / place / "base.yaml", {})
    assert base_config(tmp_path / "package") == file


def test_installation_without_a_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"base config is missing: it is neither .*package/configs/base.yaml nor "):
        base_config(tmp_path / "package")


def test_build_puts_the_configs_of_this_clone_into_the_wheel() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {"configs": "lightning_sdft/configs"}
    assert "/configs" in build["sdist"]["include"]
    assert base_config() == CONFIGS / "base.yaml"


# What it gives


def test_a_config_of_model_and_data_alone_has_all_of_the_base(in_folder: Path) -> None:
    trainer = main(OWN, run=False).trainer
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())["trainer"]
    assert {each["class_path"] for each in base["callbacks"]} <= set(names(trainer))
    assert isinstance(trainer.logger, TensorBoardLogger)
    assert trainer.gradient_clip_val == 1.0
    assert trainer.max_epochs == 1


@pytest.mark.parametrize(
    ("length", "expected"),
    [({"max_steps": 500}, (None, 500)), ({"max_epochs": 3}, (3, -1)), ({"max_time": "00:01:00:00"}, (None, -1))],
)
def test_a_run_that_says_how_long_it_is_has_no_other_length(
    length: dict[str, Any], expected: tuple[int | None, int], in_folder: Path
) -> None:
    trainer = main({**OWN, "trainer": {**OWN["trainer"], **length}}, run=False).trainer
    assert (trainer.max_epochs, trainer.max_steps) == expected


def test_callbacks_are_added_by_files_and_by_the_command_line(in_folder: Path) -> None:
    file = write(in_folder / "own.yaml", {**OWN, "trainer": {"callbacks+": [{"class_path": "KLToBase"}]}})
    typed = ["--trainer.callbacks+=EMATeacher", "--trainer.callbacks.teacher_rate=0.5"]
    config = main(["--config", str(file), *typed], run=False).config
    base = main(OWN, run=False).config
    added = config.trainer.callbacks[len(base.trainer.callbacks) :]
    assert config.trainer.callbacks[: -len(added)] == base.trainer.callbacks
    assert [each.class_path for each in added] == ["lightning_sdft.KLToBase", "lightning_sdft.EMATeacher"]
    assert added[1].init_args.teacher_rate == 0.5


def test_callbacks_and_the_logger_can_be_replaced(in_folder: Path) -> None:
    own = {"callbacks": [{"class_path": "RolloutTable"}], "logger": False}
    trainer = main({**OWN, "trainer": {**OWN["trainer"], **own}}, run=False).trainer
    assert {"RolloutTable"} == set(names(trainer)) & {"RolloutTable", "BaseComparison", "LastCheckpoints"}
    assert trainer.logger is None
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    without = main({**OWN, "trainer": {**OWN["trainer"], **off}}, run=False).trainer
    gone = {"LearningRateMonitor", "LastCheckpoints", "ModelCheckpoint", "PhaseProgressBar"}
    assert not gone & set(names(without))  # Lightning would refuse them
    assert "BaseComparison" in names(without)


def test_the_documented_composition_runs_as_it_is_written_and_ends(stand_in: Path, in_folder: Path) -> None:
    rows = [f'{{"prompt": "What helps against cold number {day}?", "response": "Rest."}}\n' for day in range(64)]
    (in_folder / "train.jsonl").write_text("".join(rows))
    short = ["--model.init_args.model", str(stand_in), "--model.init_args.max_completion_tokens=8"]
    cli = main(["fit", *files("method/sdft", "data/json", "trainer/cpu"), *short])
    assert cli.trainer.global_step == 2
    assert cli.trainer.current_epoch == 1
    rates = cli.trainer.lr_scheduler_configs[0].scheduler.get_last_lr()
    assert rates == pytest.approx([1e-5 * 3 / 11])  # after 2 steps of a warm-up of 10, and not after 16 micro-batches
    (saved,) = in_folder.glob("runs/*/version_0/config.yaml")
    assert yaml.safe_load(saved.read_text())["trainer"]["max_epochs"] == 1


def test_the_saved_config_is_complete(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(in_folder / "own.yaml", {**OWN, "config": [str(CONFIGS / "trainer" / "cpu.yaml")]})
    typed = ["--trainer.callbacks+=KLToBase", "--trainer.max_steps=1", "--trainer.num_sanity_val_steps=0"]
    main(["fit", "--config", str(file), *typed])
    (saved,) = in_folder.glob("runs/*/version_0/config.yaml")
    monkeypatch.setattr(command_line, "base_config", lambda: write(in_folder / "empty.yaml", {"trainer": {}}))
    again = main(["fit", "--config", str(saved)])
    (copy,) = in_folder.glob("runs/*/version_1/config.yaml")
    assert copy.read_text() == saved.read_text()
    assert {"KLToBase", "BaseComparison"} <= set(names(again.trainer))


# Files that stand on others


def test_files_are_read_behind_those_that_they_stand_on(in_folder: Path) -> None:
    write(in_folder / "parts/a.yaml", {"config": ["deep/b.yaml"], "seed_everything": 1})
    write(in_folder / "parts/deep/b.yaml", OWN)
    write(in_folder / "c.yaml", {"trainer": {"max_steps": 7, "callbacks+": [{"class_path": "KLToBase"}]}})
    own = {
        "trainer": {"max_epochs": 2, "callbacks+": [{"class_path": "PassAtK"}]},
        "config": ["parts/a.yaml", "c.yaml"],
    }
    file = write(in_folder / "own.yaml", {**own, "seed_everything": 5})
    expected = [in_folder / name for name in ("parts/deep/b.yaml", "parts/a.yaml", "c.yaml")]
    assert included_files(file) == expected
    config = main(["--config", str(file)], run=False).config
    assert config.seed_everything == 5
    assert (config.trainer.max_steps, config.trainer.max_epochs, config.trainer.accelerator) == (7, 2, "cpu")
    assert [each.class_path.rpartition(".")[2] for each in config.trainer.callbacks[-3:]] == [
        "PredictionWriter",
        "KLToBase",
        "PassAtK",
    ]
    keys = [list(each) for each in read_parts([str(file)])]
    assert keys == [["data", "model", "trainer"], ["seed_everything"], ["trainer"], ["seed_everything", "trainer"]]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            {"config": ["nowhere.yaml"]},
            r"own.yaml includes nowhere.yaml, but .*nowhere.yaml does not exist, nor is it the name",
        ),
        ({"config": ["own.yaml"]}, "own.yaml includes itself"),
        ({"config": "other.yaml"}, r"own.yaml: config=other.yaml is not a list; write it as config: \[other.yaml\]"),
    ],
)
def test_files_that_cannot_stand_so_are_refused(content: dict[str, Any], complaint: str, in_folder: Path) -> None:
    file = write(in_folder / "own.yaml", content)
    with pytest.raises(SettingError, match=complaint):
        main(["--config", str(file)], run=False)
    with pytest.raises(SettingError, match=complaint):
        read_parts([str(file)])


# Configs of the package by name


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("laptop_sdft", "experiment/laptop_sdft.yaml"),  # also the name of a part and of a sweep
        ("experiment/tool_use_sdft", "experiment/tool_use_sdft.yaml"),
        ("configs/method/sdft.yaml", "method/sdft.yaml"),
        ("paper", "preset/paper.yaml"),
        ("compare/parts/laptop_sft", "compare/parts/laptop_sft.yaml"),
    ],
)
def test_configs_of_the_package_have_names(name: str, file: str, in_folder: Path) -> None:
    assert config_file(name) == CONFIGS / file


def test_a_path_wins_over_a_name(in_folder: Path) -> None:
    own = write(in_folder / "laptop_sdft", OWN)
    assert config_file("laptop_sdft", in_folder) == own


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("laptop_sdf", "laptop_sdf does not exist, nor is it .* did you mean laptop_sdft?"),
        ("method/sdtf", "did you mean method/sdft?"),
        ("laptop", "several configs; give one of compare/laptop, continual/laptop, data/laptop"),
        ("zzz", "`lightning-sdft configs` lists them"),
        ("base.yaml", "base.yaml does not exist, nor is it the name"),  # one's own, which is missing
    ],
)
def test_names_that_no_config_or_several_have(name: str, complaint: str, in_folder: Path) -> None:
    with pytest.raises(SettingError, match=complaint):
        main(["--config", name], run=False)


def test_runs_stand_on_names_anywhere(in_folder: Path) -> None:
    own = write(in_folder / "own.yaml", {"config": ["laptop_sdft"], "seed_everything": 5})
    config = main(["--config", str(own), "--config", "trainer/cpu"], run=False).config
    assert (config.seed_everything, config.model.class_path) == (5, "lightning_sdft.SDFTModule")
    assert len(read_parts(["configs/compare/parts/laptop_sft.yaml"])) > 1


def test_files_that_are_no_configs_stand_on_nothing(tmp_path: Path) -> None:
    assert included_files(tmp_path / "nowhere.yaml") == []
    assert included_files(write(tmp_path / "list.yaml", [1])) == []
    (tmp_path / "broken.yaml").write_text("{")
    assert included_files(tmp_path / "broken.yaml") == []
