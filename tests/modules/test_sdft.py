from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_sdft.data.templates import AUTHORS_TEMPLATE, PAPER_TEMPLATE
from lightning_sdft.errors import DataError
from lightning_sdft.modules import SDFTModule
from lightning_sdft.records import Example
from lightning_sdft.teacher import EMATeacher
from tests.modules.conftest import EXAMPLES, TEACHER_PROMPTS, ready
from tests.modules.dense import check, forward_kl, step, token_divergences, weigh


def test_loss_is_forward_kl_from_the_teacher_that_sees_the_demonstration(
    words_module: Callable[..., SDFTModule],
) -> None:
    module = ready(words_module(SDFTModule, skip_tokens=3))
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES)
    parts = token_divergences(module, group, forward_kl, TEACHER_PROMPTS)
    check(module.policy, loss, weigh(parts, 3, "sequence"))
    others = [*TEACHER_PROMPTS[1:], TEACHER_PROMPTS[0]]  # another example's demonstration is another loss
    assert abs(loss - weigh(token_divergences(module, group, forward_kl, others), 3, "sequence")) > 0.1


def test_rollouts_change_with_every_step_and_repeat_with_the_seed(words_module: Callable[..., SDFTModule]) -> None:
    def completions(seed: int) -> list[list[int]]:
        module = words_module(SDFTModule)
        module.configure_model()
        torch.manual_seed(seed)
        return [rollout.completion for _ in range(2) for rollout in module.sample(EXAMPLES)]

    first = completions(0)
    assert first[:4] != first[4:]
    assert first == completions(0)
    assert first != completions(1)


@pytest.mark.parametrize("context", ["article", "both"])
def test_context_is_an_argument(context: Any, words_module: Callable[..., SDFTModule]) -> None:
    module = words_module(SDFTModule, privileged_context=context, teacher_template=None)
    (message,) = module.teacher_messages(EXAMPLES[0])
    assert "w54 w56" in message["content"]
    assert ("w21 w22 w23" in message["content"]) == (context == "both")


@pytest.mark.parametrize("template", [AUTHORS_TEMPLATE, PAPER_TEMPLATE])
def test_published_templates_reach_the_teacher_verbatim(template: str, words_module: Callable[..., SDFTModule]) -> None:
    (message,) = words_module(SDFTModule, teacher_template=template).teacher_messages(EXAMPLES[0])
    assert message["content"] == template.replace("{prompt}", "w1 w2").replace("{demonstration}", "w21 w22 w23")


def test_braces_in_the_data_are_text(words_module: Callable[..., SDFTModule]) -> None:
    example = Example("tools", [{"role": "user", "content": 'call {"a": {prompt}}'}], '{"b": {demonstration}}')
    (message,) = words_module(SDFTModule).teacher_messages(example)
    assert message["content"] == 'w50 call {"a": {prompt}} w51 {"b": {demonstration}} w52'


@pytest.mark.parametrize("demonstration", [None, ""])
def test_example_without_demonstration_is_named_before_training(
    demonstration: str | None, words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    bare = Example("bare", EXAMPLES[0].prompt, demonstration)
    with pytest.raises(DataError, match="example 'bare' has no demonstration, which SDFTModule learns from"):
        make_trainer().fit(words_module(SDFTModule), datamodule=words_data([*EXAMPLES, bare]))


def test_only_the_student_is_optimised_and_both_are_in_the_checkpoint(
    words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SDFTModule)
    trainer = make_trainer(max_steps=1, callbacks=[EMATeacher()])
    trainer.fit(module, datamodule=words_data())
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(p) for p in module.policy.parameters()}
    names = {name.split(".")[0] for name in module.state_dict()}
    assert names == {"policy", "teacher"}


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_teacher_moves_in_float32_whatever_the_precision(
    precision: Any, words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SDFTModule, learning_rate=1e-3)
    trainer = make_trainer(precision=precision, max_steps=2, callbacks=[EMATeacher(0.01)])
    trainer.fit(module, datamodule=words_data())
    student = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {p.dtype for p in module.policy.parameters()} == {student}
    assert {p.dtype for p in module.teacher.parameters()} == {torch.float32}
    base = words_module(SDFTModule)
    base.configure_model()
    rounded = [p.to(student).float() for p in base.policy.parameters()]
    moved = [(ours != start).float().mean() for ours, start in zip(module.teacher.parameters(), rounded, strict=True)]
    assert torch.stack(moved).mean() > 0.3  # of a bfloat16 teacher next to nothing would move
    assert trainer.global_step == 2
