"""What the command line prints and writes, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_sdft
from lightning_sdft.cli import COMMANDS, entry_point
from lightning_sdft.commands.fit import SDFTCLI, main
from lightning_sdft.commands.parser import CommandParser
from tests.cli_runs import DATA, config_file, trusted

__all__ = ["config_file", "trusted"]


def test_config_is_shown_in_tensorboard(config_file: Path) -> None:
    main(["fit", "--config", str(config_file)])
    events = EventAccumulator("runs/run").Reload()
    text = events.Tensors("~details/config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "SDFTModule" in text
    assert "teacher_rate: 0.1" in text


def test_predict_writes_lines_of_json(config_file: Path) -> None:
    main(["fit", "--config", str(config_file)])
    main(["predict", "--config", str(config_file), "--ckpt_path", "runs/run/checkpoints/last.ckpt"])
    records = [json.loads(line) for line in Path("runs/run/predictions.jsonl").read_text().splitlines()]
    assert len(records) == 8 * DATA["test_size"]
    assert {"id", "prompt", "response", "reference", "correct", "finished"} <= records[0].keys()


def test_help_explains_arguments_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "SDFTModule"])
    text = capsys.readouterr().out
    for argument in ("skip_tokens", "teacher_template", "max_prompt_tokens", "over_budget"):
        assert argument in text
    assert "The divergence to minimise" in text


def test_help_names_every_subcommand_and_a_mistyped_one_is_answered_with_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed, names in (("--help", [*SDFTCLI.subcommands(), *COMMANDS]), ("fitt", ["fit", "validate", "predict"])):
        monkeypatch.setattr("sys.argv", ["lightning-sdft", typed])
        with pytest.raises(SystemExit):
            entry_point()
        printed = capsys.readouterr()
        assert [name for name in names if not re.search(rf"\b{name}\b", printed.out + printed.err)] == []


@pytest.mark.parametrize(("before", "built"), [([], 1), (["--config", "settings.yaml"], 7)])
def test_only_the_arguments_of_the_chosen_subcommand_are_built(
    before: list[str], built: int, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind options it may be any of them, which is not known before they are read."""
    Path("settings.yaml").write_text("fit: {seed_everything: 9}")
    count: Counter[str] = Counter()
    add = CommandParser.add_lightning_class_args

    def counted(parser: Any, of: type, name: str, **options: Any) -> Any:
        count[name] += 1
        return add(parser, of, name, **options)

    monkeypatch.setattr(CommandParser, "add_lightning_class_args", counted)
    cli = main([*before, "fit", "--config", str(config_file), "--trainer.fast_dev_run=true"])
    assert cli.trainer.global_step == 1
    assert count == {"trainer": built, "model": built, "data": built}


@pytest.mark.parametrize(("subcommand", "metric"), [("validate", "val/accuracy"), ("test", "test/accuracy")])
def test_evaluation_prints_a_table_that_can_be_read(
    subcommand: str, metric: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([subcommand, "--config", str(config_file)])
    printed = capsys.readouterr().out
    assert "Evaluation of zoo/laptop" in printed
    assert "DataLoader" not in printed
    lines = [" ".join(line.replace("│", " ").split()) for line in printed.splitlines()]
    assert f"{metric}/swap-ends 0.000 0.000 to 0.000" in lines
    assert f"{metric} 0.000 0.000 to 0.000" in lines
    main([subcommand, "--config", str(config_file), "--verbose=false"])
    assert "Accuracy" not in capsys.readouterr().out


def test_export_is_a_subcommand(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["fit", "--config", str(config_file)])
    arguments = ["export", "--checkpoint", "runs/run/checkpoints/last.ckpt", "--output", "exported"]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", *arguments])
    entry_point()
    assert Path("exported/model.safetensors").is_file()


def test_our_errors_are_one_line(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["fit", "--config", str(config_file), "--model.init_args.max_prompt_tokens=2"]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", *arguments])
    with pytest.raises(SystemExit, match=r"error: .*max_prompt_tokens=2"):
        entry_point()


def test_server_that_is_not_there_is_one_line(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ["--model.init_args.engine=VLLMServer", "--model.init_args.engine.url=http://127.0.0.1:1"]
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "fit", "--config", str(config_file), *engine])
    with pytest.raises(SystemExit, match=r"error: the vLLM server at http://127.0.0.1:1 does not answer .* vllm serve"):
        entry_point()


def test_module_runs_as_a_script() -> None:
    command = [sys.executable, "-m", "lightning_sdft", "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    assert lightning_sdft.__version__ in output.stdout


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--trainer.callbacks.teacher_rate=0", r"(?s)error: .*teacher_rate=0.0 must be a number within \(0, 1\]"),
        (
            "--trainer.callbacks+=GatedTeacher",
            r"error: EMATeacher and GatedTeacher would both .* leave all but one out",
        ),
        ("--model.init_args.teacher=LiveTeacher", r"error: EMATeacher updates a teacher .* or leave the callback out"),
        (
            "--trainer.accumulate_grad_batches=3",
            r"error: trainer.accumulate_grad_batches=3, but .* 1 micro-batches",
        ),
    ],
)
def test_refused_settings_are_said_without_a_traceback(
    argument: str, complaint: str, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = ["--trainer.callbacks+=EMATeacher"] if "teacher_rate" in argument else []
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "fit", "--config", str(config_file), *appended, argument])
    with pytest.raises(SystemExit, match=complaint):
        entry_point()
