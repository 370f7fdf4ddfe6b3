from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.commands.fit import main
from lightning_sdft.errors import CheckpointError, DataError, SettingError
from tests.cli_runs import config, config_file, trusted

__all__ = ["config_file", "trusted"]


def test_rows_are_printed_as_plain_text_and_written_as_a_page(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["inspect", f"--config={config_file}", "--trainer.logger=false", "--rows=2", "--html=out/page.html"])
    printed = capsys.readouterr().out
    assert printed.count("student, greedy") == 2
    assert printed.count("teacher sees") == 2
    assert "student: likeliest next" in printed
    assert "\x1b" not in printed
    page = Path("out/page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("what the teacher sees") == 2


def test_terminal_gets_colours(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    main(["inspect", f"--config={config_file}", "--trainer.logger=false", "--rows=1"])
    assert "\x1b[" in terminal.getvalue()


def test_checkpoint_brings_student_and_teacher(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = main(["fit", f"--config={config_file}"])
    (saver,) = (each for each in cli.trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint))
    path = saver.best_model_path
    texts = []
    for arguments in ([], [f"--ckpt_path={path}"], ["--ckpt_path=last"]):
        capsys.readouterr()
        run = main(["inspect", f"--config={config_file}", "--rows=2", *arguments])
        texts.append(capsys.readouterr().out)
        if arguments:
            saved = cli.model.state_dict()
            assert all(torch.equal(value, saved[name]) for name, value in run.model.state_dict().items())
    assert texts[0] != texts[1]
    assert texts[1] == texts[2]


def test_what_cannot_be_looked_at_is_refused(config_file: Path) -> None:
    options = [f"--config={config_file}", "--trainer.logger=false"]
    with pytest.raises(CheckpointError, match="there is no checkpoint 'absent"):
        main(["inspect", *options, "--ckpt_path=absent.ckpt"])
    with pytest.raises(DataError, match="none of 32 training examples has what SDFTModule learns from"):
        main(["inspect", *options, "--model.init_args.max_teacher_prompt_tokens=2"])
    with pytest.raises(SettingError, match="rows"):
        main(["inspect", *options, "--rows=0"])
    sft = config()
    sft["model"] = {"class_path": "SFTModule", "init_args": {"model": "zoo/laptop"}}
    sft["trainer"]["callbacks"] = []
    Path("sft.yaml").write_text(yaml.safe_dump(sft))
    with pytest.raises(SettingError, match="SFTModule has none; ask the student with"):
        main(["inspect", "--config=sft.yaml", "--trainer.logger=false"])


def test_feedback_is_shown_with_the_answer_that_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parents[2] / "configs/experiment/laptop_sdpo.yaml"
    quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--data.init_args.prior_size=2"]
    main(["inspect", "--config", str(file), *quiet, "--rows=16"])
    told = capsys.readouterr().out.count(" example ")  # a right sibling
    assert 0 < told < 16
