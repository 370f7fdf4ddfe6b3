"""What the command line prints and writes, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_sdft
from lightning_sdft.cli import entry_point
from lightning_sdft.commands.fit import main
from tests.cli_runs import DATA, config_file, trusted

__all__ = ["config_file", "trusted"]


def test_config_is_shown_in_tensorboard(config_file: Path) -> None:
    main(["fit", "--config", str(config_file)])
    events = EventAccumulator("runs/run").Reload()
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
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


@pytest.mark.parametrize(("subcommand", "metric"), [("validate", "val/accuracy"), ("test", "test/accuracy")])
def test_evaluation_prints_a_table_that_can_be_read(
    subcommand: str, metric: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([subcommand, "--config", str(config_file)])
    printed = capsys.readouterr().out
    assert "Accuracy of zoo/laptop" in printed
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
