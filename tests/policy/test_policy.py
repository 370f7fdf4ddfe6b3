from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.tokenizer import Tokenizer, load_tokenizer
from lightning_sdft.records import TokenSequence
from tests.conftest import END, STOP_IDS, TURNS_WITH_END, VOCABULARY

QUESTION = [{"role": "user", "content": "w1 w2"}]

# Ragged, the first one longer than the sliding window of the Gemmas, one completion of a single token.
SEQUENCES = [
    TokenSequence([2, 11, 12, 13, 14, 15, 16, 3], [21, 22, 23, 24, 25, END]),
    TokenSequence([2, 31, 3], [32, END]),
    TokenSequence([2, 41, 42, 43, 3], [END]),
    TokenSequence([7], [8, 9, 11, 12, 13, 14, 15, 16, 17]),
]


def own_logits(policy: Policy) -> torch.Tensor:
    """The logits `(N, V)` of the model itself, each sequence alone and without padding."""
    parts = []
    for sequence in SEQUENCES:
        tokens = torch.tensor([sequence.prompt + sequence.completion])
        start = len(sequence.prompt) - 1
        parts.append(policy.model(input_ids=tokens, use_cache=False).logits[0, start:-1])
    return torch.cat(parts)


# Hidden states and head


def test_head_of_hidden_states_is_the_logits_of_the_model(policy: Policy) -> None:
    policy.eval()
    logits = policy.head(policy.hidden(SEQUENCES))
    assert logits.shape == (sum(len(sequence.completion) for sequence in SEQUENCES), len(VOCABULARY))
    torch.testing.assert_close(logits, own_logits(policy), rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.3


def test_gradients_reach_every_weight_as_they_do_in_the_model(policy: Policy) -> None:
    policy.eval()
    torch.manual_seed(0)
    direction = torch.randn(sum(len(sequence.completion) for sequence in SEQUENCES), len(VOCABULARY))
    (policy.head(policy.hidden(SEQUENCES)) * direction).sum().backward()
    ours = {name: parameter.grad for name, parameter in policy.named_parameters()}
    policy.zero_grad()
    (own_logits(policy) * direction).sum().backward()
    for name, parameter in policy.named_parameters():
        gradient = ours[name]
        assert gradient is not None, name
        assert parameter.grad is not None
        assert name.endswith("k_proj.bias") or gradient.abs().max() > 1e-2, name  # softmax cancels a bias of all keys
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-4 * parameter.grad.abs().max().item())


def test_tied_embedding_is_one_parameter(family_folder: Callable[[str], Path]) -> None:
    policy = Policy.load(str(family_folder("gpt2")))
    assert policy.head.weight is policy.model.get_input_embeddings().weight
    assert sum(parameter is policy.head.weight for parameter in policy.parameters()) == 1


def test_post_processing_is_known(policy: Policy, family: str) -> None:
    expected = {"gemma2": (2.0, 1.0), "granite": (None, 1 / 3), "cohere": (None, 0.25)}
    assert (policy.head.soft_cap, policy.head.scale) == expected.get(family, (None, 1.0))


def test_output_bias_is_part_of_the_head(llama: Policy) -> None:
    model = llama.model
    layer = nn.Linear(model.config.hidden_size, len(VOCABULARY))
    model.set_output_embeddings(layer)
    policy = Policy(model.eval(), llama.tokenizer)
    assert policy.head.bias is layer.bias
    torch.testing.assert_close(policy.head(policy.hidden(SEQUENCES)), own_logits(policy), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [lambda logits: 1.1 * logits, torch.tanh, lambda logits: logits.flip(-1)])
def test_unknown_post_processing_is_refused(
    llama: Policy, monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    forward = LlamaForCausalLM.forward

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = change(output.logits)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", changed)
    with pytest.raises(PolicyError, match="LlamaForCausalLM makes logits"):
        Policy(llama.model, llama.tokenizer)


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_forgotten_post_processing_is_noticed(
    family: str, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(family_folder(family))
    monkeypatch.setattr("lightning_sdft.policy.probe._named", lambda config: (1.0, None))
    with pytest.raises(PolicyError, match="makes logits"):
        Policy.load(name)


# Loading and saving


def test_saved_folder_is_read_by_transformers(policy: Policy, family: str, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    policy.eval().save_pretrained(tmp_path)
    assert not policy.training
    attention = policy.config._attn_implementation  # older releases choose one that ignores the cap of Gemma 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=attention).eval()
    tokens = torch.tensor([SEQUENCES[0].prompt])
    assert torch.equal(model(input_ids=tokens).logits, policy.model(input_ids=tokens).logits)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_template == TURNS_WITH_END
    assert load_tokenizer(str(tmp_path)).stop_ids == set(STOP_IDS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_saved_in_another_precision(llama: Policy, dtype: torch.dtype, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path, dtype)
    assert next(llama.parameters()).dtype == torch.float32
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert model.dtype == dtype
    assert AutoConfig.from_pretrained(tmp_path).dtype == dtype  # what vLLM goes by
    for ours, theirs in zip(llama.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.to(dtype), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loads_in_the_default_precision_and_in_train_mode(
    dtype: torch.dtype, family_folder: Callable[[str], Path]
) -> None:
    torch.set_default_dtype(dtype)
    try:
        policies = [Policy.load(str(family_folder("llama")), pretrained) for pretrained in (True, False)]
    finally:
        torch.set_default_dtype(torch.float32)
    for policy in policies:
        assert {parameter.dtype for parameter in policy.parameters()} == {dtype}
        assert all(part.training for part in policy.modules())
        assert all(parameter.requires_grad for parameter in policy.parameters())
    assert not torch.equal(policies[0].head.weight, policies[1].head.weight)


def test_attention_implementation_is_passed_on(family_folder: Callable[[str], Path]) -> None:
    assert Policy.load(str(family_folder("llama")), attention="eager").model.config._attn_implementation == "eager"
    assert Policy.load(str(family_folder("llama"))).model.config._attn_implementation == "sdpa"
    assert Policy.load(str(family_folder("gemma2"))).model.config._attn_implementation == "eager"


def test_unknown_zoo_model_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match="zoo/laptop"):
        Policy.load("zoo/nope")


def test_missing_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no GGUF file .*nope\.gguf"):
        Policy.load(str(tmp_path / "nope.gguf"))


def test_longest_sequence(llama: Policy) -> None:
    assert llama.max_tokens == 64


def test_gradient_checkpointing_computes_twice_and_changes_no_gradient(llama: Policy) -> None:
    gradients, calls = [], []
    llama.model.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    for times in (1, 2):
        llama.zero_grad()
        calls.clear()
        llama.head(llama.hidden(SEQUENCES)).square().sum().backward()
        assert len(calls) == times
        gradients.append([parameter.grad.clone() for parameter in llama.parameters() if parameter.grad is not None])
        llama.enable_gradient_checkpointing()
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


# Tokenizer


def test_checking_the_head_leaves_train_mode(llama: Policy) -> None:
    Policy(llama.model.train(), Tokenizer(llama.tokenizer.hugging_face))
    assert all(part.training for part in llama.model.modules())


def test_cast_policy_is_the_one_loaded_in_that_precision(policy: Policy, family: str, family_folder: Any) -> None:
    # What bf16-true does. Rotary frequencies cast along would misplace tokens far from the start.
    cast = nn.ModuleList([policy]).to(torch.bfloat16).eval()[0]
    torch.set_default_dtype(torch.bfloat16)
    try:
        loaded = Policy.load(str(family_folder(family))).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in cast.parameters()} == {torch.bfloat16}
    assert all(buffer.dtype == torch.float32 for name, buffer in cast.named_buffers() if "inv_freq" in name)
    sequence = TokenSequence([11, 12, 13, 14, 15] * 11, [16, 17, 18])
    assert torch.equal(cast.hidden([sequence]), loaded.hidden([sequence]))
