"""The student takes the teacher's place only where it answers as well, shown the demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_sdft.callbacks import GatedTeacher
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading.base import Grader
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.records import Example
from lightning_sdft.teacher import BaseTeacher
from tests.modules.conftest import question
from tests.teacher.test_ema_teacher import student_weights, teacher_weights


class Verdicts(Grader):
    """Calls all answers of the n-th test right or wrong: of the student's test first, then of the teacher's."""

    def __init__(self, *right: bool) -> None:
        super().__init__()
        self.right = list(right)
        self.asked: list[int] = []

    def grade(self, response: str, reference: Any) -> bool | None:
        raise NotImplementedError

    def grade_all(self, responses: Any, references: Any) -> list[bool | None]:
        self.asked.append(len(responses))
        return [self.right[len(self.asked) - 1]] * len(responses)


class Pairs(Callback):
    """Weights of teacher and student before each step."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch.index == 0:
            self.pairs.append((teacher_weights(pl_module), student_weights(pl_module)))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.pairs.append((teacher_weights(pl_module), student_weights(pl_module)))


def asked(index: int) -> Example:
    example = question(index)
    return Example(example.id, example.prompt, example.demonstration, reference="w1")


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, modules_to_save=["norm"])])
def test_teacher_stays_or_becomes_the_student(
    lora: LoRA | None, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    grader, pairs = Verdicts(False, True, True, True, True, False), Pairs()
    gate = GatedTeacher(every_n_steps=2, examples=3)
    data = words_data(validation=[EvaluationSet([asked(20 + index) for index in range(4)], {"new": grader})])
    make_trainer(callbacks=[pairs, gate], max_steps=7).fit(words_module(SDFTModule, lora=lora), datamodule=data)
    assert grader.asked == [3] * 6
    assert gate.updates == 2
    taught = [teacher for teacher, _ in pairs.pairs]
    for step in (1, 2, 3):  # worse at step 2: the teacher stays
        assert torch.equal(taught[step], taught[0])
    for step in (4, 5):  # as good at step 4
        torch.testing.assert_close(taught[step], pairs.pairs[4][1], rtol=0, atol=0)
    for step in (6, 7):  # better at step 6
        torch.testing.assert_close(taught[step], pairs.pairs[6][1], rtol=0, atol=0)


def test_without_references_likelihood_decides_and_training_rows_are_held_out(
    words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    data = words_data(train=[question(index) for index in range(40)])
    gate = GatedTeacher(every_n_steps=2, examples=64)
    make_trainer(callbacks=[gate], max_steps=4).fit(words_module(SDFTModule), datamodule=data)
    assert len(data.splits.train) == 36  # a tenth is held out
    held_out = gate._held_out
    assert held_out is not None
    assert held_out.grader is None
    assert not {each.id for each in held_out.examples} & {each.id for each in data.splits.train}
    assert data.withhold(99, lambda _: True) == held_out.examples  # the same for another callback


def test_rows_with_references_are_held_out_of_training_if_those_of_validation_lack_demonstrations(
    words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    bare = [Example(each.id, each.prompt, None, reference="w1") for each in map(question, range(20, 24))]
    data = words_data(
        train=[asked(index) for index in range(40)], validation=[EvaluationSet(bare, {"new": Verdicts(*[True] * 9)})]
    )
    gate = GatedTeacher(every_n_steps=2)
    make_trainer(callbacks=[gate], max_steps=2).fit(words_module(SDFTModule), datamodule=data)
    assert gate._held_out is not None
    assert gate._held_out.grader is not None
    assert len(gate._held_out.examples) == 4
    assert len(data.splits.train) == 36


def test_no_other_model_is_asked_for_verdicts(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    grader = Verdicts()
    grader.asks_a_model = True
    data = words_data(validation=[EvaluationSet([asked(20 + index) for index in range(4)], {"new": grader})])
    gate = GatedTeacher(every_n_steps=1)
    make_trainer(callbacks=[gate], max_steps=2).fit(words_module(SDFTModule), datamodule=data)
    assert grader.asked == []
    assert gate._held_out is not None
    assert len(gate._held_out.examples) == 4


def test_it_is_refused_where_there_is_nothing_to_gate(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    def fit(module: Any, **arguments: Any) -> None:
        make_trainer(callbacks=[GatedTeacher()], max_steps=2).fit(module, **arguments)

    data = words_data(train=[question(index) for index in range(40)])
    with pytest.raises(SettingError, match="GatedTeacher is for a teacher that sees more than the student"):
        fit(words_module(SFTModule), datamodule=data)
    with pytest.raises(SettingError, match="GatedTeacher updates a teacher that has its own copy"):
        fit(words_module(SDFTModule, lora=LoRA(rank=2), teacher=BaseTeacher()), datamodule=data)
    with pytest.raises(SettingError, match="GatedTeacher asks questions of a data module"):
        fit(words_module(SDFTModule), train_dataloaders=data.train_dataloader())
    with pytest.raises(DataError, match="GatedTeacher: no example has demonstration within the token budgets"):
        fit(words_module(SDFTModule, max_teacher_prompt_tokens=1), datamodule=words_data())


@pytest.mark.parametrize(("rows", "batch_size", "kept"), [(39, 4, 39), (40, 4, 36), (44, 44, 44), (50, 45, 50)])
def test_a_split_that_cannot_spare_examples_keeps_those_that_are_asked_about(
    rows: int, batch_size: int, kept: int, words_data: Any
) -> None:
    data = words_data(train=[question(index) for index in range(rows)], batch_size=batch_size)
    assert len(data.withhold(64, lambda _: True)) == (rows - kept or rows)
    assert len(data.splits.train) == kept


def test_a_number_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="every_n_steps=0"):
        GatedTeacher(every_n_steps=0)
