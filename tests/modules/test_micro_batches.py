"""A group is trained on in micro-batches of like length, which saves padding and changes no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_sdft.data.groups import Group, MicroBatch
from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example
from lightning_sdft.teacher import LiveTeacher
from tests.modules.conftest import EXAMPLES as DISTILLED
from tests.modules.conftest import METHODS, TEACHER_PROMPTS, question
from tests.modules.dense import token_ids

# Short and long ones alternate, so that every micro-batch of the unsorted group has both.
RAGGED = [
    Example(str(index), [{"role": "user", "content": " ".join(["w6"] * length)}], " ".join(["w26"] * (length // 2 + 1)))
    for index, length in enumerate([1, 11, 2, 12, 1, 10, 3, 11])
]


@pytest.fixture
def unsorted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Leaves groups in the order in which they come."""
    fill = Group.fill
    return lambda: monkeypatch.setattr(
        Group, "fill", lambda self, items, tokens, **_: fill(self, items, tokens, by_length=False)
    )


def padded_positions(policy: Policy) -> list[int]:
    """Collects the padded positions of each batch that a policy reads in training."""
    counts: list[int] = []
    pad = policy.tokenizer.pad_id  # not in the examples' own text
    policy.model.base_model.register_forward_pre_hook(
        lambda _, __, inputs: counts.append(int((inputs["input_ids"] == pad).sum())), with_kwargs=True
    )
    return counts


def train_on(module: CausalLMModule, examples: Sequence[Example], size: int) -> tuple[list[Tensor], Group]:
    """The gradient of a group, and the group."""
    torch.manual_seed(0)
    batches = MicroBatch.cut(examples, size)
    for batch in batches:
        (module.training_step(batch, 0) * size / len(examples)).backward()
    return [p.grad for p in module.policy.parameters() if p.grad is not None], batches[0].group


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_order_of_a_group_does_not_change_its_gradient(
    method: type[CausalLMModule],
    size: int,
    reduction: Any,
    words_module: Callable[..., CausalLMModule],
    unsorted: Callable[[], None],
) -> None:
    arguments = {"teacher": LiveTeacher()} if method is SDFTModule else {}  # a copied one is in float32
    gradients, orders = [], []
    for leave in (lambda: None, unsorted):
        leave()
        module = words_module(method, reduction=reduction, **arguments)
        module.configure_model()
        gradient, group = train_on(module, RAGGED, size)
        gradients.append(gradient)
        orders.append([item.example.id for item in group.items])
        assert [example.id for example in group.examples] == [example.id for example in RAGGED]
    assert orders[0] != orders[1] == [example.id for example in RAGGED]
    scale = max(float(gradient.abs().max()) for gradient in gradients[0])
    assert scale > 1e-3
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("method", METHODS)
def test_sorting_saves_most_of_the_padding_and_the_longest_come_first(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], unsorted: Callable[[], None]
) -> None:
    padding = []
    arguments = {"rollout_source": "demonstration"} if method is SDFTModule else {}
    for leave in (lambda: None, unsorted):
        leave()
        module = words_module(method, **arguments)
        module.configure_model()
        readers = [module.policy, *([module.teacher.policy] if method is SDFTModule else [])]
        counts = [padded_positions(reader) for reader in readers]
        widths: list[int] = []
        module.policy.model.model.register_forward_pre_hook(
            lambda _, __, inputs, widths=widths: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
        )
        train_on(module, RAGGED, 2)
        assert all(len(count) == 4 for count in counts)
        padding.append([sum(count) for count in counts])
        if len(padding) == 1:
            assert widths == sorted(widths, reverse=True)
    for after, before in zip(*padding, strict=True):
        assert after < before / 5


class Pairs(Callback):
    """Keeps the examples of each micro-batch and what was trained on."""

    def __init__(self) -> None:
        self.completions: list[tuple[Example, list[int]]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for item in batch.items:
            assert item.student.prompt == pl_module.tokenizer.encode(item.example.prompt)
            self.completions.append((item.example, item.student.completion))


@pytest.mark.parametrize("method", METHODS)
def test_callbacks_see_examples_beside_what_was_trained_on(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    pairs = Pairs()
    arguments = {"rollout_source": "demonstration"} if method is SDFTModule else {}
    module = words_module(method, **arguments)
    make_trainer(callbacks=[pairs], max_steps=4).fit(module, datamodule=words_data())
    assert len({example.id for example, _ in pairs.completions}) == len(pairs.completions) == 16
    for example, completion in pairs.completions:
        assert completion == token_ids(f"{example.demonstration} <end>")


def test_teacher_and_student_read_the_rollout_of_their_example(words_module: Callable[..., SDFTModule]) -> None:
    module = words_module(SDFTModule)
    module.configure_model()
    for batch in MicroBatch.cut(DISTILLED, 2):
        module.fill(batch.group)
        for item in batch.items:
            assert item.teacher is not None
            assert item.rollout is not None
            assert item.teacher.prompt == token_ids(TEACHER_PROMPTS[DISTILLED.index(item.example)])
            assert item.student.prompt == item.rollout.prompt
            assert item.teacher.completion == item.student.completion == item.rollout.completion


def test_a_batch_that_comes_again_is_sampled_again(words_module: Callable[..., SDFTModule]) -> None:
    module = words_module(SDFTModule)
    module.configure_model()
    examples, completions = [question(index) for index in range(4)], []
    for _ in range(2):
        batch = MicroBatch.of(examples)
        module.training_step(batch, 0)
        completions.append([rollout.completion for rollout in batch.rollouts])
    assert completions[0] != completions[1]
