"""Several rollouts of a prompt: which they are, what reads them, and what their gradient is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_sdft.data.groups import Group, MicroBatch
from lightning_sdft.errors import SettingError
from lightning_sdft.modules import DistillationModule, Retention, SDFTModule, SequenceDistillationModule
from lightning_sdft.modules.rollout_source import TeacherShare
from lightning_sdft.policy import Policy, layout
from lightning_sdft.records import Sampling
from lightning_sdft.rollout import generate, in_process, own_seeds
from lightning_sdft.teacher import LiveTeacher
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, ready
from tests.modules.dense import token_ids
from tests.modules.test_resume import check_resume

Module = Callable[..., DistillationModule]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the few tokens of these tests are worth a tree."""
    monkeypatch.setattr(layout, "SPARED", 0)


def widths(policy: Policy) -> list[tuple[int, ...]]:
    """The shapes of what a policy reads with a mask of its own from now on, which are trees."""
    found: list[tuple[int, ...]] = []

    def look(module: object, args: object, inputs: dict[str, Any]) -> None:
        if getattr(inputs.get("attention_mask"), "ndim", 0) == 4:
            found.append(tuple(inputs["input_ids"].shape))

    policy.model.base_model.register_forward_pre_hook(look, with_kwargs=True)
    return found


def test_each_prompt_is_answered_so_often_with_seeds_of_its_own(words_module: Module) -> None:
    module = ready(words_module(SDFTModule, generations=3))
    torch.manual_seed(0)
    rollouts = module.sample(EXAMPLES)
    prompts = [token_ids(prompt) for prompt in STUDENT_PROMPTS for _ in range(3)]
    assert [each.prompt for each in rollouts] == prompts
    torch.manual_seed(0)
    seeds = in_process.draw_seeds(12)
    expected = generate(module.policy, prompts, module.max_completion_tokens, Sampling(), seeds)
    assert [each.completion for each in rollouts] == [each.completion for each in expected]
    assert len({tuple(each.completion) for each in rollouts}) > 6


def test_seeds_depend_on_example_and_generation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(processes: int, generations: int) -> list[list[int]]:
        """Of eight examples, in the order of their places in the step."""
        seeds: dict[int, list[int]] = {}
        for process in range(processes):
            monkeypatch.setattr(in_process, "process_count", lambda: processes)
            monkeypatch.setattr(in_process, "process_index", lambda process=process: process)
            torch.manual_seed(5)
            own = own_seeds(8 // processes, generations)
            for index in range(8 // processes):
                place = index * processes + process
                seeds[place] = own[index * generations : (index + 1) * generations]
        return [seeds[place] for place in range(8)]

    assert drawn(1, 3) == drawn(2, 3) == drawn(4, 3)
    once = [seed for (seed,) in drawn(1, 1)]
    torch.manual_seed(5)
    assert once == in_process.draw_seeds(8)
    assert len({seed for seeds in drawn(2, 3) for seed in seeds}) == 24


def gradients(module: DistillationModule, size: int) -> tuple[list[Tensor], Group]:
    """The gradient of a step, and its group."""
    torch.manual_seed(0)
    batches = MicroBatch.cut(EXAMPLES, size)
    for batch in batches:
        (module.training_step(batch, 0) * size / len(EXAMPLES)).backward()
    return [each.grad for each in module.policy.parameters() if each.grad is not None], batches[0].group


@pytest.mark.usefixtures("double", "eager")
@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_the_gradient_is_that_of_rows_whatever_the_micro_batch(reduction: Any, words_module: Module) -> None:
    found: dict[tuple[int, bool], list[Tensor]] = {}
    for size, trees in ((4, True), (2, True), (1, True), (4, False)):
        module = ready(
            words_module(SDFTModule, generations=3, reduction=reduction, teacher=LiveTeacher(), skip_tokens=1)
        )
        module.policy.eval().reads_trees = trees
        read = widths(module.policy)
        found[size, trees], group = gradients(module, size)
        assert bool(read) == trees
        order = [item.example.id for item in group.items]
        assert [order[place : place + 3] for place in range(0, 12, 3)] == [[name] * 3 for name in order[::3]]
    scale = max(each.abs().max().item() for each in found[4, False])
    assert scale > 1e-3
    for name, each in found.items():
        for one, other in zip(each, found[4, False], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * scale, msg=str(name))


@pytest.mark.usefixtures("double")
def test_one_generation_after_another_is_the_mean_of_steps(words_module: Module) -> None:
    """The loss is the mean over all rollouts of the mean over a rollout's tokens."""
    module = ready(words_module(SDFTModule, generations=2, teacher=LiveTeacher()))
    module.policy.eval()
    batch = MicroBatch.of(EXAMPLES)
    whole = module.training_step(batch, 0).item()
    parts = []
    for number in range(2):
        part = MicroBatch.of(EXAMPLES)
        part.group.fill(batch.group.items[number::2], batch.group.tokens)
        parts.append(module.training_step(part, 0).item())
    assert whole == pytest.approx(sum(parts) / 2, rel=1e-9)
    assert parts[0] != pytest.approx(parts[1], rel=1e-3)


@pytest.mark.usefixtures("eager")
def test_student_and_teacher_read_trees(words_module: Module) -> None:
    module = ready(words_module(SDFTModule, generations=4))
    student, teacher = widths(module.policy), widths(module.teacher.policy)
    module.training_step(MicroBatch.of(EXAMPLES), 0).backward()
    assert len(student) == len(teacher) == 1
    assert student[0][0] <= len(EXAMPLES)
    assert teacher[0][0] <= len(EXAMPLES)


@pytest.mark.usefixtures("eager")
def test_resumed_run_equals_the_uninterrupted_one(
    words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    check_resume(SDFTModule, 0, words_module, words_data, make_trainer, tmp_path, generations=3)


@pytest.mark.parametrize("method", [DistillationModule, SequenceDistillationModule])
def test_other_writers_answer_so_often_too(method: Any, words_module: Module) -> None:
    share = {"teacher_share": TeacherShare(0.5, 0.5)} if method is DistillationModule else {}
    module = ready(words_module(method, generations=2, **share, **SHOWN))
    batch = MicroBatch.of(EXAMPLES)
    module.training_step(batch, 0).backward()
    assert [item.example.id for item in batch.items] == list("aabbccdd")
    for item in batch.items:
        assert item.teacher is not None
        assert item.teacher.completion == item.student.completion
        assert item.student.prompt == token_ids(STUDENT_PROMPTS["abcd".index(item.example.id)])


def test_demonstrations_have_no_generations(words_module: Module) -> None:
    with pytest.raises(SettingError, match="generations=4 would be copies of it"):
        words_module(SDFTModule, rollout_source="demonstration", generations=4)


def test_a_model_that_reads_rows_says_so_once(
    words_module: Module, words_data: Any, make_trainer: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    said: Sequence[str] = ()
    for generations, times in ((1, 0), (2, 1)):
        caplog.clear()
        module = words_module(SDFTModule, generations=generations, probing=False)
        with caplog.at_level("INFO"):
            make_trainer(max_steps=1).fit(module, datamodule=words_data())
        said = [each.message for each in caplog.records if "as a tree" in each.message]
        assert len(said) == times
    assert said[0].startswith("LlamaForCausalLM cannot read several completions of a prompt as a tree")


class Kept(Callback):
    """Keeps the group of the last step."""

    group: Group

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.group = batch.group


def test_retention_asks_each_of_its_prompts_once(words_module: Module, words_data: Any, make_trainer: Any) -> None:
    module = words_module(SDFTModule, generations=3, retention=Retention(prompts=4))
    kept = Kept()
    make_trainer(max_steps=1, callbacks=[kept]).fit(module, datamodule=words_data())
    assert len(kept.group.retained) == 4
    assert len(kept.group.items) == 12
