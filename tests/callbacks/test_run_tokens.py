from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lightning.pytorch import Callback

from lightning_sdft.callbacks import RunSize
from lightning_sdft.callbacks.run_tokens import step_tokens, training_line
from lightning_sdft.modules import CPTModule, DistillationModule, Retention, SDFTModule, SFTModule


class Counted(Callback):
    """Counts what a run really reads and writes."""

    def __init__(self) -> None:
        self.read = self.written = self.steps = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.read += sum(map(len, batch.student_sequences))
        if isinstance(pl_module, DistillationModule):
            self.read += sum(map(len, batch.teacher_sequences))
            self.written += sum(len(each.completion) for each in batch.rollouts)
        retained = batch.group.retained[batch.index :: batch.group.micro_batches]
        self.read += 2 * sum(map(len, retained))
        self.written += sum(len(each.completion) for each in retained)
        self.steps = trainer.global_step


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (SFTModule, {}),
        (CPTModule, {}),
        (DistillationModule, {"rollout_source": "demonstration", "max_teacher_prompt_tokens": 16}),
        (SDFTModule, {}),
        (SDFTModule, {"retention": Retention(prompts=4)}),
    ],
)
def test_as_many_tokens_as_the_run_then_reads(
    method: Any, options: dict[str, Any], make_module: Any, make_data: Any, make_trainer: Any
) -> None:
    module, data, counted = make_module(method, pretrained=True, **options), make_data(train_size=32), Counted()
    make_trainer(callbacks=[counted], max_epochs=1).fit(module, datamodule=data)
    found = step_tokens(module, data.splits.train, data.batch_size)
    # Responses are not as long as demonstrations, which this model has not learned yet; student and teacher read each.
    samples = issubclass(method, SDFTModule)
    if not samples:
        assert found.written == 0
        assert found.read * counted.steps == pytest.approx(counted.read)
    else:
        prompts = (found.read - 2 * found.written) * counted.steps
        assert prompts == pytest.approx(
            counted.read - 2 * counted.written, rel=0.02 if "retention" in options else 1e-9
        )
        assert counted.written <= found.written * counted.steps < 2.5 * counted.written


def test_it_is_said_before_training(
    make_module: Any, make_data: Any, make_trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data()
    make_trainer(callbacks=[RunSize()], max_steps=3).fit(make_module(SDFTModule), datamodule=data)
    line = next(each for each in capsys.readouterr().out.splitlines() if each.startswith("training: "))
    examples, asked = len(data.splits.train), sum(len(each.examples) for each in data.splits.validation)
    assert line.startswith(f"training: 3 steps of {data.batch_size} prompts from {examples} examples, about ")
    assert line.endswith(f" to write if responses are as long as demonstrations; {asked} questions at each validation")


def test_without_a_last_step_it_is_said_of_each(make_module: Any, make_data: Any) -> None:
    line = training_line(make_module(SFTModule), make_data(batch_size=1, micro_batch_size=1), float("inf"), True)
    assert line.startswith("training: steps of 1 prompt from ")
    assert " tokens to read in each, with what the checkpoint has done" in line


def test_without_demonstrations_the_budget_counts(make_module: Any, make_data: Any) -> None:
    module = make_module(DistillationModule, max_completion_tokens=20)
    examples = [replace(each, demonstration=None) for each in make_data().splits.train]
    found = step_tokens(module, examples, 2)
    assert (found.written, found.guessed) == (40, 20)
