"""Packed sequences: hidden states and gradients are those of each sequence alone, or the model is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaModel

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.probe import check_packing
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import TokenSequence
from tests.conftest import END, make_model, make_tokenizer
from tests.policy.test_policy import SEQUENCES

# Of 2, 3, ... tokens, one more than the sliding window of the Gemmas is long, and prompts of a single token.
LADDER = [TokenSequence([5 + length], list(range(11, 11 + length))) for length in range(1, 7)]

PACKS = {"ragged": SEQUENCES, "ladder": LADDER, "of one": SEQUENCES[:1], "of one pair": LADDER[:1]}


def run(policy: Policy, sequences: list[TokenSequence], packed: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of the completion tokens, and the gradients of a loss that depends on each of them."""
    policy.zero_grad()
    logits = policy.head(policy.hidden(sequences, packed))
    generator = torch.Generator().manual_seed(0)
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    return logits.detach(), gradients


def check(policy: Policy, sequences: list[TokenSequence]) -> None:
    alone, expected = run(policy, sequences, packed=False)
    packed, gradients = run(policy, sequences, packed=True)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5 * alone.abs().max().item())
    assert gradients.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 1
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("pack", PACKS)
def test_packing_changes_neither_hidden_states_nor_gradients(policy: Policy, pack: str) -> None:
    check_packing(policy)
    check(policy.eval(), PACKS[pack])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packing_with_each_attention(family: str, family_folder: Any, attention: str) -> None:
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip("Gemma 2 has no SDPA")
    policy = Policy.load(str(family_folder(family)), attention=attention)
    check_packing(policy)
    check(policy.eval(), SEQUENCES)


def test_packing_with_gradient_checkpointing_in_train_mode(policy: Policy) -> None:
    for part in policy.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # what it leaves out depends on the shape
    policy.enable_gradient_checkpointing()
    assert policy.model.training
    check(policy, SEQUENCES)


def test_a_pack_is_one_row_without_padding(llama: Policy) -> None:
    shapes = []
    llama.model.model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    llama.hidden(SEQUENCES)
    llama.hidden(SEQUENCES, packed=True)
    lengths = [14, 5, 6, 10]
    assert [len(sequence) for sequence in SEQUENCES] == lengths
    assert shapes == [(4, 14), (1, sum(lengths))]


def test_the_check_leaves_no_trace(llama: Policy) -> None:
    check_packing(llama)
    assert all(parameter.grad is None for parameter in llama.parameters())
    assert all(part.training for part in llama.modules())
    assert not llama.model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_the_check(policy: Policy, dtype: torch.dtype) -> None:
    check_packing(policy.to(dtype))


STATES = {
    "Mamba": {},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    # Attention, which keeps them apart, beside a convolution, which does not: it leaks a ten-thousandth.
    "Lfm2": {"num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_that_carries_a_state_along_is_refused(name: str, dtype: torch.dtype) -> None:
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": END}
    config = getattr(transformers, f"{name}Config")(**shape, bos_token_id=None, **STATES[name])
    torch.manual_seed(0)
    policy = Policy(AutoModelForCausalLM.from_config(config, dtype=dtype), Tokenizer(make_tokenizer()), probing=False)
    with pytest.raises(PolicyError, match=f"{name}ForCausalLM does not keep packed sequences apart .*packing=false"):
        check_packing(policy)


def test_model_that_ignores_positions_is_refused(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LlamaModel.forward

    def ignorant(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", ignorant)
    with pytest.raises(PolicyError, match="LlamaForCausalLM does not keep packed sequences apart"):
        check_packing(llama)


def test_model_whose_positions_go_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaks, but the second sequence is read as if it stood further back."""
    policy = Policy(make_model("gpt2"), Tokenizer(make_tokenizer()))
    embedding = policy.model.transformer.wpe
    embedding.register_forward_pre_hook(lambda _, inputs: (torch.arange(inputs[0].shape[1])[None],))
    with pytest.raises(PolicyError, match="GPT2LMHeadModel does not keep packed sequences apart"):
        check_packing(policy)
