from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_sdft.callbacks.prior_tasks import PriorTasks
from lightning_sdft.errors import PriorTaskError
from lightning_sdft.evaluation import PriorSuite
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from tests.evaluation.task_files import write_task
from tests.launch import in_processes


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Any]:
    """A choice and a written answer in the words of the tiny models."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"w{number} w{number + 1}", "label": number % 2} for number in range(6, 14)]
    choice = {"doc_to_text": "{{question}}", "doc_to_choice": ["w26", "w27 w28"], "doc_to_target": "label"}
    write_task(folder, "choice", rows, output_type="multiple_choice", **choice)
    written = {
        "doc_to_text": "{{question}}",
        "doc_to_target": "w26",
        "generation_kwargs": {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 1.0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    write_task(folder, "written", rows, output_type="generate_until", **written)
    return {"tasks": ["choice", "written"], "include_path": str(folder)}


def logged(logger: CSVLogger) -> dict[int, dict[str, float]]:
    """What was logged of prior tasks, by step."""
    header, *lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    values = {
        int(row["step"]): {name: float(value) for name, value in row.items() if name.startswith("prior") and value}
        for row in rows
        if row.get("prior/average")
    }
    assert len(values) == sum(bool(row.get("prior/average")) for row in rows)  # no step twice
    return values


class Weights(Callback):
    """Evaluates by itself at given steps, on a copy of the weights."""

    def __init__(self, steps: list[int], tasks: dict[str, Any]) -> None:
        self.suite, self.steps = PriorSuite(**tasks), steps
        self.scores: dict[int, dict[str, float]] = {}

    def look(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step in self.steps:
            scores = self.suite.evaluate(pl_module.policy)
            self.scores[trainer.global_step] = {score.task: score.score for score in scores.scores}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.look(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.look(trainer, pl_module)


def test_scores_are_logged_at_their_steps(
    tasks: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    logger, weights = CSVLogger(tmp_path), Weights([0, 2, 4, 5], tasks)
    callback = PriorTasks(**tasks, every_n_steps=2)
    trainer = make_trainer(callbacks=[weights, callback], logger=logger, max_steps=5, log_every_n_steps=50)
    trainer.fit(words_module(SFTModule, learning_rate=0.1), datamodule=words_data())
    values = logged(logger)
    assert {step: {name: row[f"prior/{name}"] for name in tasks["tasks"]} for step, row in values.items()} == {
        step: pytest.approx(scores, abs=1e-6) for step, scores in weights.scores.items()
    }
    assert len({row["prior/average"] for row in values.values()}) > 1
    for row in values.values():
        assert row["prior/average"] == pytest.approx((row["prior/choice"] + row["prior/written"]) / 2, abs=1e-6)
        assert row["prior_low/choice"] <= row["prior/choice"] <= row["prior_high/choice"]
    final = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("prior")}
    assert final == pytest.approx(values[5], abs=1e-6)
    state = callback.state_dict()
    assert state == {"step": 5, "scores": pytest.approx(final, abs=1e-6)}
    other = PriorTasks(**tasks)
    other.load_state_dict(state)
    assert other.state_dict() == state


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, [0, 4]),
        ({"base": False}, [4]),
        ({"every_n_steps": 2, "base": False}, [2, 4]),
        ({"every_n_steps": 9}, [0, 4]),
    ],
)
def test_when_it_evaluates(
    arguments: dict[str, Any],
    steps: list[int],
    tasks: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(callbacks=[PriorTasks(**tasks, limit=2, **arguments)], logger=logger, max_steps=4)
    trainer.fit(words_module(SFTModule), datamodule=words_data())
    assert list(logged(logger)) == steps


def test_resumed_run_does_not_repeat_the_base(
    tasks: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    make = {"max_epochs": 1, "max_steps": -1}
    first = make_trainer(callbacks=[PriorTasks(**tasks, limit=2)], **make)
    first.fit(words_module(SFTModule), datamodule=words_data())
    first.save_checkpoint(tmp_path / "one.ckpt")
    logger = CSVLogger(tmp_path)
    resumed = make_trainer(callbacks=[PriorTasks(**tasks, limit=2)], logger=logger, **{**make, "max_epochs": 2})
    resumed.fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=tmp_path / "one.ckpt")
    assert list(logged(logger)) == [8]


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, dropout=0.1)])
@pytest.mark.parametrize("method", [SFTModule, SDFTModule])
def test_training_goes_on_as_if_it_had_not_been_there(
    method: Any,
    lora: LoRA | None,
    tasks: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    states, modes = [], []
    for callbacks in ([], [PriorTasks(**tasks, every_n_steps=1)]):
        seed_everything(3)
        module = words_module(method, lora=lora)
        make_trainer(callbacks=callbacks).fit(module, datamodule=words_data())
        states.append(module.policy.state_dict())
        modes.append([part.training for part in module.modules()])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert modes[0] == modes[1]
    assert torch.cat([state.flatten() for state in states[0].values()]).isfinite().all()


def test_processes_share_the_questions_and_agree(
    tasks: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    def fit(strategy: str, processes: int) -> None:
        logger = CSVLogger(tmp_path, version=strategy)
        options = {"logger": logger, "max_steps": 2, "devices": processes, "strategy": strategy}
        data = words_data(micro_batch_size=2 // processes)
        module = words_module(SFTModule, learning_rate=0.0)
        make_trainer(callbacks=[PriorTasks(**tasks, limit=3)], **options).fit(module, datamodule=data)

    results = []
    for strategy, processes in (("auto", 1), ("ddp", 2), ("fsdp2", 2)):
        in_processes(processes, fit, strategy, processes)
        results.append(logged(CSVLogger(tmp_path, version=strategy)))
    assert results[0] == results[1] == results[2]
    assert list(results[0]) == [0, 2]


def test_tasks_that_cannot_be_run_stop_before_the_model_is_loaded(
    tasks: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    path = Path(tasks["include_path"]) / "written.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "unsafe_code": True}))
    module = words_module(SFTModule)
    with pytest.raises(PriorTaskError, match=r"allow_code_execution=\[written\]"):
        make_trainer(callbacks=[PriorTasks(**tasks)]).fit(module, datamodule=words_data())
    assert not hasattr(module, "policy")
    trainer = make_trainer(callbacks=[PriorTasks(**tasks, allow_code_execution=["written"])], max_steps=1)
    trainer.fit(module, datamodule=words_data())
    assert "prior/written" in trainer.callback_metrics
