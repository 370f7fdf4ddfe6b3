"""The student takes the teacher's place only where it answers as well, shown the demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import Tensor

from lightning_sdft.callbacks import GatedTeacher, TeacherWatch
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import SettingError
from lightning_sdft.grading.base import Grader
from lightning_sdft.modules import CausalLMModule, SDFTModule, SDPOModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.records import Example
from lightning_sdft.teacher import BaseTeacher
from tests.checkpoint.interruption import Curves
from tests.modules.conftest import question
from tests.modules.test_sdpo import Short
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


def test_without_references_the_likelihood_of_the_demonstrations_decides(
    words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    seed_everything(7)
    gate, curves, data = GatedTeacher(every_n_steps=1), Curves(), words_data(train=list(map(question, range(40))))
    make_trainer(callbacks=[gate], max_steps=6, logger=curves).fit(words_module(SDFTModule), datamodule=data)
    found = [
        [curves.values[f"teacher/{name}", step] for name in ("gate_student", "gate_teacher", "refreshed")]
        for step in range(1, 7)
    ]
    assert all(0 < min(student, teacher) < max(student, teacher) < 1 for student, teacher, _ in found)
    assert [refreshed for *_, refreshed in found] == [float(student > teacher) for student, teacher, _ in found]
    assert gate.updates == sum(refreshed for *_, refreshed in found)
    assert 0 < gate.updates < 6


def test_with_feedback_both_are_told_of_the_attempts_of_the_student_as_it_is_then(
    words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    """A gate and a watch of the same run, which ask the same questions at the same step."""
    seed_everything(7)
    asked = [Example(each.id, each.prompt, reference=4) for each in map(question, range(16))]
    data = words_data(asked, [EvaluationSet(asked, {"short": Short()})])
    gate, watch, curves = GatedTeacher(every_n_steps=2, examples=16), TeacherWatch(examples=16), Curves()
    options = {"max_steps": 4, "limit_val_batches": 1.0, "val_check_interval": 4, "check_val_every_n_epoch": None}
    trainer = make_trainer(callbacks=[gate, watch], logger=curves, **options)
    module = words_module(SDPOModule, teacher_template=["{prompt}", " w50 {attempt} w51"])
    trainer.fit(module, datamodule=data)
    for step in (2, 4):
        student, teacher, refreshed = (
            curves.values[f"teacher/{name}", step] for name in ("gate_student", "gate_teacher", "refreshed")
        )
        assert refreshed == float(student >= teacher)
        assert curves.values["student/in_context", step] == student
        assert curves.values["teacher/accuracy", step] == (student if refreshed else teacher)
    assert 0 < curves.values["student/in_context", 0] < 1
    assert curves.values["teacher/demonstration_kl", 0] > 0


def test_it_is_refused_where_there_is_nothing_to_gate(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    def fit(module: Any) -> None:
        make_trainer(callbacks=[GatedTeacher()], max_steps=2).fit(module, datamodule=words_data())

    with pytest.raises(
        SettingError, match=r"GatedTeacher updates a teacher that has its own copy .* SFTModule has none"
    ):
        fit(words_module(SFTModule))
    with pytest.raises(SettingError, match="GatedTeacher updates a teacher that has its own copy"):
        fit(words_module(SDFTModule, lora=LoRA(rank=2), teacher=BaseTeacher()))


def test_a_number_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="every_n_steps=0"):
        GatedTeacher(every_n_steps=0)
