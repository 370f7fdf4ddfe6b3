"""The watch asks at every validation and in between, warns once, stops or goes back; all of it goes on exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from lightning_sdft.callbacks import GatedTeacher, LastCheckpoints, TeacherWatch
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading.base import Grader
from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.records import Example
from lightning_sdft.teacher import EMATeacher, TeacherUpdate
from tests.checkpoint.interruption import Curves, Fault, FaultError
from tests.modules.conftest import question
from tests.teacher.test_ema_teacher import student_weights, teacher_weights

QUESTIONS = 8


class Falling(Grader):
    """Calls an answer right unless the step of the run is one of those given."""

    def __init__(self, *wrong: int) -> None:
        super().__init__()
        self.wrong = wrong
        self.modules_graded: list[Any] = []  # a list, because the module has this grader as a part

    def grade(self, response: str, reference: Any) -> bool | None:
        return self.modules_graded[0].global_step not in self.wrong


class Steps(Callback):
    """Weights of student and teacher, and the learning rate, before each step and at the end."""

    def __init__(self, grader: Falling) -> None:
        self.grader = grader
        self.students: dict[int, torch.Tensor] = {}
        self.teachers: dict[int, torch.Tensor] = {}
        self.rates: dict[int, float] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.grader.modules_graded[:] = [pl_module]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._note(trainer, pl_module)  # after the watch, which is before it in the list

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._note(trainer, pl_module)

    def _note(self, trainer: Any, module: Any) -> None:
        self.students.setdefault(trainer.global_step, student_weights(module))
        self.teachers.setdefault(trainer.global_step, teacher_weights(module))
        self.rates.setdefault(trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"])


def graded(grader: Grader) -> list[EvaluationSet]:
    asked = [question(20 + index) for index in range(QUESTIONS)]
    examples = [Example(each.id, each.prompt, each.demonstration, reference="w1") for each in asked]
    return [EvaluationSet(examples, {"new": grader})]


@pytest.fixture
def fit(words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path) -> Callable[..., Any]:
    """Trains for 12 steps with a validation every other step, at which answers become wrong as told."""

    def run(
        watch: TeacherWatch,
        wrong: Sequence[int] = (),
        folder: str = "run",
        ckpt_path: Any = None,
        more: Sequence[Callback] = (),
        seed: int = 7,
        every: int | None = None,
        update: TeacherUpdate | None = None,
        **arguments: Any,
    ) -> tuple[Steps, Curves, Any]:
        grader, curves = Falling(*wrong), Curves()
        steps = Steps(grader)
        saves = LastCheckpoints(dirpath=tmp_path / folder, keep=20, every_n_train_steps=every)
        callbacks = [update or EMATeacher(0.1), watch, steps, saves, *more]
        options = {"max_steps": 12, "limit_val_batches": 1.0, "val_check_interval": 4, "check_val_every_n_epoch": None}
        trainer = make_trainer(callbacks=callbacks, logger=curves, enable_checkpointing=True, max_epochs=-1, **options)
        module: CausalLMModule = words_module(SDFTModule, warmup_steps=0, **arguments)
        seed_everything(seed)  # behind the module, whose first one draws the weights of the tests' model
        trainer.fit(module, datamodule=words_data(validation=graded(grader)), ckpt_path=ckpt_path)
        return steps, curves, trainer

    return run


def test_it_asks_before_the_first_step_and_at_every_validation(fit: Callable[..., Any]) -> None:
    watch = TeacherWatch(examples=5)
    _, curves, trainer = fit(watch)
    assert [each["step"] for each in watch.history] == [0, 2, 4, 6, 8, 10, 12]
    assert {each["questions"] for each in watch.history} == {5}
    assert curves.values["teacher/accuracy", 4] == 1.0
    assert trainer.callback_metrics["student/in_context"] == 1.0
    assert watch.warned == []


def test_between_validations_it_asks_a_student_that_the_teacher_follows_under_stress(fit: Callable[..., Any]) -> None:
    watch = TeacherWatch(examples=5, every_n_steps=3)
    with pytest.warns(UserWarning, match="student/in_context_stressed is 0.00 at step 9, after 1.00 at step 0") as all_:
        _, curves, _ = fit(watch, wrong=[9, 10])
    # after wrong answers it asks twice as often, up to the next right one
    assert [each["step"] for each in watch.history] == [0, 2, 3, 4, 6, 8, 9, 10, 11, 12]
    asked = {step for name, step in curves.values if name == "student/in_context_stressed"}
    assert asked == {0, 2, 3, 4, 6, 8, 9, 10, 11, 12}
    assert {step for name, step in curves.values if name == "student/in_context"} == {0, 2, 4, 6, 8, 10, 12}
    assert len([each for each in all_ if "in_context_stressed" in str(each.message)]) == 1
    still = TeacherWatch(every_n_steps=1)
    fit(still, folder="still", wrong=[9], update=GatedTeacher(every_n_steps=100))
    assert [each["step"] for each in still.history] == [0, 2, 4, 6, 8, 10, 12]
    assert still.warned == []


def test_without_grader_it_measures_likelihoods_and_after_training_nothing(
    words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    watch, data = TeacherWatch(), words_data(train=[question(index) for index in range(40)])
    trainer = make_trainer(callbacks=[watch], max_steps=4)
    module = words_module(SDFTModule)
    trainer.fit(module, datamodule=data)
    (first, *_) = watch.history
    assert 0 < first["teacher/accuracy"] == first["student/in_context"] < 0.5  # the same model, which is random
    assert first["rollout/length_p95"] > 0
    assert first["teacher/demonstration_kl"] > 0
    measured = len(watch.history)
    evaluated = words_data(validation=graded(Falling()))
    evaluated.splits.validation[0].graders["new"].modules_graded.append(module)
    trainer.validate(module, datamodule=evaluated, verbose=False)
    assert len(watch.history) == measured


def test_it_warns_once_by_name_and_trains_on(fit: Callable[..., Any]) -> None:
    watch = TeacherWatch()
    with pytest.warns(
        UserWarning, match="TeacherWatch: student/in_context is 0.00 at step 4, after 1.00 at step 0"
    ) as all_:
        steps, _, _ = fit(watch, wrong=[4, 6, 8])
    texts = [str(each.message) for each in all_ if "TeacherWatch" in str(each.message)]
    assert [text.split()[1] for text in texts] == [
        "student/in_context_stressed",
        "student/in_context",
        "teacher/accuracy",
    ]
    assert max(steps.students) == 12


def test_it_can_stop(fit: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match="TeacherWatch"):
        steps, _, _ = fit(TeacherWatch(action="stop"), wrong=[6])
    assert max(steps.students) == 6


def test_watching_does_not_change_training(fit: Callable[..., Any]) -> None:
    watched, _, _ = fit(TeacherWatch(), folder="watched")
    again, _, _ = fit(TeacherWatch(examples=2), folder="again")
    assert all(torch.equal(weights, again.students[step]) for step, weights in watched.students.items())


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, modules_to_save=["norm"])])
def test_going_back_restores_student_teacher_and_optimizer_and_lowers_the_rate(
    lora: LoRA | None, fit: Callable[..., Any], tmp_path: Path
) -> None:
    plain, _, _ = fit(TeacherWatch(), folder="plain", lora=lora)
    watch = TeacherWatch(action="go_back", learning_rate_factor=0.25)
    with pytest.warns(UserWarning, match="TeacherWatch"):
        steps, _, _ = fit(watch, wrong=[6], lora=lora, every=1)
    assert watch.returned == 1
    for step in range(6):
        torch.testing.assert_close(steps.students[step], plain.students[step], rtol=0, atol=0)
    for weights in (steps.students, steps.teachers):
        torch.testing.assert_close(weights[6], weights[4], rtol=0, atol=0)
        assert not torch.equal(weights[7], weights[6])
    assert steps.rates[4] == plain.rates[4]
    assert [steps.rates[step] for step in range(6, 12)] == [0.25 * plain.rates[step] for step in range(6, 12)]
    (saved,) = (path for path in tmp_path.joinpath("run").iterdir() if path.name == "step000007.ckpt")
    state = torch.load(saved, weights_only=False)["optimizer_states"][0]["state"]
    assert {int(each["step"]) for each in state.values()} == {5}  # four steps, and one after going back
    assert sorted(path.name for path in tmp_path.joinpath("run").glob("good-*")) == [
        "good-step000010.ckpt",
        "good-step000012.ckpt",
    ]


def test_it_goes_back_only_so_often_and_then_stops_with_the_good_weights(fit: Callable[..., Any]) -> None:
    watch = TeacherWatch(action="go_back", returns=1)
    with pytest.warns(UserWarning, match="wears out again after going back 1 times; training stops") as all_:
        steps, _, _ = fit(watch, wrong=[2, 4])
    assert watch.returned == 1
    assert sum("training stops" in str(each.message) for each in all_) == 1
    assert max(steps.students) == 4
    torch.testing.assert_close(steps.students[4], steps.students[0], rtol=0, atol=0)


@pytest.fixture(scope="module")
def wholes() -> dict[Any, tuple[Steps, Curves]]:
    """The runs that were not ended, once they are known: when a checkpoint is saved makes no difference to them."""
    return {}


@pytest.mark.parametrize(
    ("hook", "number", "every", "wrong", "lora"),
    [
        # the last checkpoint is of the validation after which it goes back
        ("on_train_batch_start", 13, None, 6, None),
        # after going back, of which the last checkpoint knows
        ("on_train_batch_start", 15, 1, 6, None),
        ("on_train_batch_start", 15, 1, 6, LoRA(rank=2)),
        ("on_validation_epoch_end", 4, 1, 6, None),
        # before going back, because of what was asked between two validations
        ("on_train_batch_start", 14, 1, 7, None),
        ("on_train_batch_start", 14, 1, 7, LoRA(rank=2)),
        ("on_train_batch_start", 16, 1, 7, None),
    ],
)
def test_run_that_was_ended_and_goes_on_equals_one_that_was_not(
    hook: str,
    number: int,
    every: int | None,
    wrong: int,
    lora: LoRA | None,
    fit: Callable[..., Any],
    wholes: dict[Any, tuple[Steps, Curves]],
    tmp_path: Path,
) -> None:
    arguments: dict[str, Any] = {"wrong": [wrong], "lora": lora, "every": every}

    def watch() -> TeacherWatch:
        return TeacherWatch(action="go_back", every_n_steps=1 if wrong % 2 else 16)

    if (wrong, lora is None) not in wholes:
        with pytest.warns(UserWarning, match="TeacherWatch"):
            wholes[wrong, lora is None] = fit(watch(), folder="whole", **arguments)[:2]
    whole, curves = wholes[wrong, lora is None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FaultError):
            fit(watch(), more=[Fault(hook, number)], **arguments)
    newest = max(tmp_path.joinpath("run").glob("step*.ckpt"), key=lambda path: path.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rest, more, _ = fit(watch(), ckpt_path=newest, seed=8, **arguments)
    assert max(rest.students) == 12
    for ours, theirs in ((rest.students, whole.students), (rest.teachers, whole.teachers)):
        for step in ours:
            torch.testing.assert_close(ours[step], theirs[step], rtol=0, atol=0)
    assert rest.rates == {step: whole.rates[step] for step in rest.rates}
    assert more.values == {key: curves.values[key] for key in more.values}
