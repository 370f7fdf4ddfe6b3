from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.errors import DataError
from lightning_sdft.modules import CausalLMModule, DFTModule, SDFTModule, SFTModule
from lightning_sdft.records import Example
from tests.modules.conftest import METHODS, Watch, question

# Optimizer and schedule


@pytest.mark.parametrize("length", [{"max_steps": 12}, {"max_steps": -1, "max_epochs": 3}])
def test_learning_rate_warms_up_linearly_and_falls_along_a_cosine(
    length: dict[str, int], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    watch = Watch()
    trainer = make_trainer(callbacks=[watch], **length)
    trainer.fit(words_module(SFTModule, learning_rate=0.5, warmup_steps=3), datamodule=words_data())
    expected = [0.125, 0.25, 0.375, *(0.25 * (1 + math.cos(math.pi * step / 9)) for step in range(9))]
    assert watch.rates == pytest.approx(expected)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_without_warm_up_the_first_step_is_at_the_peak(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    watch = Watch()
    trainer = make_trainer(callbacks=[watch], max_steps=4)
    trainer.fit(words_module(SFTModule, learning_rate=0.5, warmup_steps=0), datamodule=words_data())
    assert watch.rates == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 4)) for step in range(4)])


@pytest.mark.parametrize("method", METHODS)
def test_optimizer_holds_the_policy_and_nothing_else(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(method, weight_decay=0.25)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, datamodule=words_data())
    (group,) = trainer.optimizers[0].param_groups
    assert group["weight_decay"] == 0.25
    assert {id(p) for p in group["params"]} == {id(p) for p in module.policy.parameters()}


def test_frozen_parameters_are_left_out_of_the_optimizer(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule)
    module.configure_model()
    frozen = module.policy.model.get_input_embeddings().weight.requires_grad_(False)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, datamodule=words_data())
    assert id(frozen) not in {id(p) for p in trainer.optimizers[0].param_groups[0]["params"]}


# A plain loader


@pytest.mark.parametrize("method", METHODS)
def test_trains_from_a_plain_loader_of_examples(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], make_trainer: Any
) -> None:
    module = words_module(method)
    module.configure_model()
    before = [p.detach().clone() for p in module.policy.parameters()]
    loader = DataLoader([question(index) for index in range(8)], batch_size=2, collate_fn=MicroBatch.of)  # type: ignore[arg-type]
    trainer = make_trainer(max_steps=3, accumulate_grad_batches=1)
    trainer.fit(module, loader)
    assert trainer.global_step == 3
    assert not any(torch.equal(p, start) for p, start in zip(module.policy.parameters(), before, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("example", "complaint"),
    [
        (Example("bare", [{"role": "user", "content": "w1"}]), "example 'bare' has no demonstration"),
        (Example("big", [{"role": "user", "content": "w1 " * 20}], "w2"), "'big': its prompt has 23 tokens"),
    ],
)
def test_examples_of_a_plain_loader_are_checked_too(
    example: Example,
    complaint: str,
    method: type[CausalLMModule],
    words_module: Callable[..., CausalLMModule],
    make_trainer: Any,
) -> None:
    loader = DataLoader([question(0), example], batch_size=2, collate_fn=MicroBatch.of)  # type: ignore[arg-type]
    extra = {"max_teacher_prompt_tokens": 40} if method is SDFTModule else {}
    with pytest.raises(DataError, match=complaint):
        make_trainer(accumulate_grad_batches=1).fit(words_module(method, **extra), loader)


def test_evaluation_without_a_data_module_says_what_it_lacks(
    words_module: Callable[..., CausalLMModule], make_trainer: Any
) -> None:
    loader = DataLoader([question(0)], batch_size=1, collate_fn=MicroBatch.of)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"evaluation needs a data module .*pass datamodule=\.\.\."):
        make_trainer().test(words_module(SFTModule), loader)


# Micro-batches


def test_accumulation_that_does_not_fit_the_group_names_both_numbers(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    message = "trainer.accumulate_grad_batches=3, but an optimizer step has 2 micro-batches"
    with pytest.raises(ValueError, match=message):
        make_trainer(accumulate_grad_batches=3).fit(words_module(SFTModule), datamodule=words_data())


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_micro_batch_size_does_not_change_the_run(
    reduction: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    runs = []
    for size in (1, 2, 4):
        watch, module = Watch(), words_module(SFTModule, reduction=reduction, learning_rate=1e-3)
        trainer = make_trainer(callbacks=[watch], accumulate_grad_batches=1, max_steps=6)  # it is told
        trainer.fit(module, datamodule=words_data(micro_batch_size=size))
        runs.append((watch.losses, torch.cat([p.detach().flatten() for p in module.policy.parameters()])))
    assert len(runs[0][0]) == 6
    assert runs[0][0][-1] < runs[0][0][0]
    for losses, weights in runs[1:]:
        assert losses == pytest.approx(runs[0][0], rel=1e-4)
        torch.testing.assert_close(weights, runs[0][1], rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients(words_module: Callable[..., CausalLMModule]) -> None:
    gradients = []
    for enabled in (False, True):
        module = words_module(SFTModule, gradient_checkpointing=enabled)
        module.configure_model()
        assert module.policy.model.is_gradient_checkpointing == enabled
        module.training_step(MicroBatch.of([question(index) for index in range(3)]), 0).backward()
        gradients.append([p.grad for p in module.policy.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("method", [SFTModule, DFTModule])
def test_trains_in_bfloat16(
    method: type[CausalLMModule],
    precision: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    watch, module = Watch(), words_module(method)
    trainer = make_trainer(precision=precision, callbacks=[watch], max_steps=2)
    trainer.fit(module, datamodule=words_data())
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {p.dtype for p in module.policy.parameters()} == {expected}
    assert all(math.isfinite(loss) for loss in watch.losses)


@pytest.mark.parametrize("step", ["fit", "validate", "predict"])
def test_a_loader_that_yields_plain_lists_is_refused_with_what_to_do(
    step: str, words_module: Callable[..., CausalLMModule], make_trainer: Any
) -> None:
    loader = DataLoader([question(index) for index in range(2)], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"a batch is a list instead of a MicroBatch; give your loader collate_fn"):
        getattr(make_trainer(max_steps=1, limit_val_batches=1.0), step)(words_module(SFTModule), loader)
