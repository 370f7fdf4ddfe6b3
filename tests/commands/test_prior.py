from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from lightning_sdft.commands.prior import prior, scores_table
from lightning_sdft.errors import CheckpointError, PriorTaskError
from lightning_sdft.evaluation import PAPER_TASKS, PriorScore, PriorScores
from lightning_sdft.modules import CausalLMModule, SFTModule
from tests.evaluation.task_files import folder
from tests.modules.conftest import make_trainer, words_data, words_module

__all__ = ["folder", "make_trainer", "words_data", "words_module"]


def command(*arguments: str) -> PriorScores:
    scores: PriorScores = auto_cli(prior, args=list(arguments), as_positional=False)
    return scores


def test_prints_a_table_and_writes_the_scores(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "scores.json"
    tasks = ["--tasks", "skills, written", "--include_path", str(folder), "--limit", "8"]
    scores = command("--model", "zoo/laptop", *tasks, "--output", str(output))
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    low, high = scores.scores[0].interval
    assert f"skills skills:acc 0.750 {low:.3f} to {high:.3f} 8" in lines
    assert any(line.startswith("average average 0.750") for line in lines)
    assert f"scores written to {output}" in lines
    record = json.loads(output.read_text())
    assert record["model"] == "zoo/laptop"
    assert record["limit"] == 8
    assert record["lm_eval_version"] == scores.lm_eval_version
    assert record["average"]["score"] == pytest.approx(0.75)
    assert record["average"]["tasks"] == ["skills", "written"]
    assert record["tasks"]["skills"] == {
        "metric": "skills:acc",
        "score": 0.75,
        "stderr": scores.scores[0].stderr,
        "interval": [low, high],
        "questions": 8,
    }


def caption(names: tuple[str, ...], limit: int | None = None) -> str:
    scores = PriorScores(tuple(PriorScore(name, f"{name}:acc", 0.5, None, 3) for name in names), limit, "1.2")
    console = Console(width=400, file=StringIO())
    console.print(scores_table(scores, "title"))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_table_says_over_which_tasks_the_average_is() -> None:
    assert "the average is over the paper's six tasks" in caption(PAPER_TASKS)
    without = tuple(name for name in PAPER_TASKS if name != "humaneval")
    expected = "the average is over hellaswag, mmlu, truthfulqa, winogrande, ifeval, not over the paper's six tasks"
    assert expected in caption(without)
    assert "lm-eval 1.2, no chat template, the first 3 questions of each task;" in caption(without, limit=3)
    assert "not over the paper's six tasks" in caption((*PAPER_TASKS, "arc_easy"))


def train(module: Any, trainer: Trainer, data: Any, path: Path) -> Path:
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(path)
    return path


def test_student_of_a_checkpoint_is_evaluated(
    folder: Path, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    module = words_module(SFTModule, learning_rate=0.3)
    checkpoint = str(train(module, make_trainer(), words_data(), tmp_path / "trained.ckpt"))
    module.policy.save_pretrained(tmp_path / "exported")
    options: dict[str, Any] = {"tasks": "letters", "include_path": str(folder)}
    trained = prior(checkpoint=checkpoint, **options)
    assert trained == prior(str(tmp_path / "exported"), **options)
    assert trained == prior(module.model, checkpoint=checkpoint, **options)
    assert trained.scores[0].score != pytest.approx(prior(module.model, **options).scores[0].score, rel=0.01)


def test_code_is_run_only_if_allowed_by_name(folder: Path) -> None:
    options = ["--model", "zoo/laptop", "--tasks", "runs_code", "--include_path", str(folder)]
    with pytest.raises(PriorTaskError, match=r"give allow_code_execution=\[runs_code\]"):
        command(*options)
    assert command(*options, "--allow_code_execution", "[runs_code]").scores[0].score == 0.75


def test_tasks_are_checked_before_the_model_is_loaded(folder: Path) -> None:
    with pytest.raises(PriorTaskError, match="runs what the model writes"):
        prior("no/such/model", tasks="runs_code", include_path=str(folder))


def test_precision_is_that_of_the_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"tasks": "letters", "include_path": str(folder)}
    exact, rounded = prior("zoo/laptop", **options), prior("zoo/laptop", dtype="bfloat16", **options)
    assert exact.scores[0].score != rounded.scores[0].score
    assert exact.scores[0].score == pytest.approx(rounded.scores[0].score, rel=0.2)


def test_needs_a_model_or_a_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="a model or a checkpoint is needed"):
        prior(tasks="skills", include_path=str(folder))


def test_checkpoint_of_other_software_is_refused(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(LightningModule())
    trainer.save_checkpoint(tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=r"foreign.ckpt' is not a checkpoint of lightning_sdft"):
        prior(checkpoint=str(tmp_path / "foreign.ckpt"), tasks="skills", include_path=str(folder))
