"""Packing saves padding and changes no loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaModel, MambaConfig, MambaForCausalLM

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.errors import PolicyError
from lightning_sdft.modules import DFTModule, SFTModule
from tests.conftest import END, make_tokenizer
from tests.modules.conftest import Watch, question
from tests.modules.test_sft import EXAMPLES

METHODS = [SFTModule, DFTModule]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_packing_does_not_change_the_run(
    method: type[SFTModule], size: int, words_module: Callable[..., SFTModule], words_data: Any, make_trainer: Any
) -> None:
    runs, rows = [], []
    for packing in (False, True):
        watch, module = Watch(), words_module(method, packing=packing, learning_rate=1e-3)
        module.configure_model()
        shapes: list[tuple[int, ...]] = []
        module.policy.model.model.register_forward_pre_hook(
            lambda _, __, inputs, shapes=shapes: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
        )
        trainer = make_trainer(callbacks=[watch], accumulate_grad_batches=4 // size, max_steps=6)
        trainer.fit(module, datamodule=words_data(micro_batch_size=size))
        runs.append((watch.losses, torch.cat([p.detach().flatten() for p in module.policy.parameters()])))
        rows.append({shape[0] for shape in shapes})
    (losses, weights), (packed_losses, packed_weights) = runs
    assert len(losses) == 6
    assert losses[-1] != pytest.approx(losses[0], rel=1e-2)
    assert packed_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(packed_weights, weights, rtol=1e-3, atol=1e-4)
    assert rows == [{size}, {1}]


@pytest.mark.parametrize("method", METHODS)
def test_packing_changes_no_gradient(method: type[SFTModule], words_module: Callable[..., SFTModule]) -> None:
    gradients = []
    for packing in (False, True):
        module = words_module(method, packing=packing)
        module.configure_model()
        for batch in MicroBatch.cut(EXAMPLES, 2):
            module.training_step(batch, 0).backward()
        gradients.append([p.grad for p in module.policy.parameters()])
    scale = max(float(gradient.abs().max()) for gradient in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * scale)


def test_to_be_packed_a_group_keeps_its_order(words_module: Callable[..., SFTModule]) -> None:
    module = words_module(SFTModule, packing=True)
    module.configure_model()
    first, second = MicroBatch.cut(EXAMPLES, 2)
    module.training_step(first, 0)
    assert [item.example for batch in (first, second) for item in batch.items] == EXAMPLES


@pytest.mark.parametrize("method", METHODS)
def test_model_that_cannot_pack_is_refused_before_training(
    method: type[SFTModule], tmp_path: Path, words_data: Any, make_trainer: Any
) -> None:
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "pad_token_id": 0, "eos_token_id": END}
    MambaForCausalLM(MambaConfig(**shape)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    # The probe refuses the model too, because it cannot generate with it.
    budgets = {"max_prompt_tokens": 16, "max_completion_tokens": 8, "probing": False}
    watch = Watch()
    trainer = make_trainer(callbacks=[watch], max_steps=1)
    with pytest.raises(PolicyError, match="MambaForCausalLM does not keep packed sequences apart"):
        trainer.fit(method(str(tmp_path), packing=True, **budgets), datamodule=words_data())
    assert not watch.rates
    make_trainer(callbacks=[watch], max_steps=1).fit(method(str(tmp_path), **budgets), datamodule=words_data())
    assert len(watch.rates) == 1


def test_model_is_checked_once_and_only_for_packing(
    words_module: Callable[..., SFTModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = LlamaModel.forward
    monkeypatch.setattr(LlamaModel, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    counts = []
    for packing in (False, True):
        module = words_module(SFTModule, packing=packing)
        for _ in range(2):
            module.configure_model()
            counts.append(len(calls))
        calls.clear()
    plain, again, checked, checked_again = counts
    assert plain == again < checked == checked_again


def test_packed_examples_keep_their_single_token_prompts(words_module: Callable[..., SFTModule]) -> None:
    module = words_module(SFTModule, packing=True)
    module.configure_model()
    module.tokenizer.encode = lambda prompt: [7]  # type: ignore[method-assign]
    losses = []
    for packing in (False, True):
        module.packing = packing
        losses.append(module.training_step(MicroBatch.of([question(index) for index in range(4)]), 0).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
