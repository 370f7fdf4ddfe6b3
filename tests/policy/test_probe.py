from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.probe import probe
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import GREEDY, Sampling
from lightning_sdft.rollout import generate
from tests.conftest import END, GEMMA, GROUPED, SHAPE, STOP_IDS, VOCABULARY, make_model, make_tokenizer

SIZES = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": END}


def build(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**{**SIZES, **arguments}))


def policy_of(model: Any, tokenizer: Any = None) -> Policy:
    return Policy(model, Tokenizer(tokenizer or make_tokenizer(), STOP_IDS))


def gemma3(**changes: Any) -> Any:
    """A model whose settings stand in a part of its config, with a text and an image part."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**SIZES, **GEMMA, "max_position_embeddings": 48, "initializer_range": 0.5, **changes}
    arguments = {"text_config": text, "vision_config": {**vision, "image_size": 28, "patch_size": 14}}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(transformers.Gemma3Config(**arguments, mm_tokens_per_image=4))


class GpuByDefault(TorchFunctionMode):
    """Makes tensors as Lightning does while a model for a GPU is built: there, where a CPU's generator is refused."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (kwargs or {}).get("generator") is not None and "device" not in kwargs:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return func(*args, **(kwargs or {}))


def test_model_is_loaded_where_new_tensors_are_on_a_gpu() -> None:
    model = build("Llama", **SHAPE)
    with GpuByDefault():
        policy = policy_of(model)
        assert len(generate(policy, [[5]], 2, Sampling())) == 1


def test_settings_of_a_composite_model_are_read_where_they_are() -> None:
    assert policy_of(gemma3()).max_tokens == 48


def test_cap_that_the_config_of_a_composite_model_names_is_asked_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gemma 3 with images applies no cap, whatever its config says; Gemma 4 does."""
    assert policy_of(gemma3(final_logit_softcapping=3.0)).head.soft_cap is None
    forward = transformers.Gemma3ForConditionalGeneration.forward

    def capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = 3 * torch.tanh(output.logits / 3)
        return output

    monkeypatch.setattr(transformers.Gemma3ForConditionalGeneration, "forward", capped)
    assert policy_of(gemma3(final_logit_softcapping=3.0)).head.soft_cap == 3.0


def test_scale_that_a_config_names_by_a_word_is_asked_of_the_model() -> None:
    """MPT's config may say ``inv_sqrt_d_model``; transformers' model applies no scale."""
    shape = {"d_model": 32, "n_heads": 4, "n_layers": 1, "max_seq_len": 64}
    assert policy_of(build("Mpt", **shape, logit_scale="inv_sqrt_d_model")).head.scale == 1.0


def test_soft_cap_that_is_not_read_is_noticed_while_logits_are_small(
    llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cap of 60 changes the logits of a random model by less than rounding does."""
    forward = LlamaForCausalLM.forward

    def capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = 60 * torch.tanh(output.logits / 60)
        return output

    with torch.no_grad():
        llama.model.lm_head.weight.mul_(1e-3)
    monkeypatch.setattr(LlamaForCausalLM, "forward", capped)
    with pytest.raises(PolicyError, match="LlamaForCausalLM makes logits"):
        Policy(llama.model, llama.tokenizer)


def test_model_that_sees_the_future_is_refused() -> None:
    with pytest.raises(PolicyError, match="Gemma3ForCausalLM sees the future"):
        policy_of(build("Gemma3Text", **GEMMA, use_bidirectional_attention=True))


def test_model_that_sees_one_token_ahead_is_refused(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LlamaModel.forward

    @wraps(forward)
    def ahead(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        hidden = output.last_hidden_state
        output.last_hidden_state = hidden + 0.1 * torch.cat([hidden[:, 1:], hidden[:, -1:]], 1)
        return output

    monkeypatch.setattr(LlamaModel, "forward", ahead)
    with pytest.raises(PolicyError, match="sees the future"):
        probe(llama)


def test_model_that_reads_a_sequence_by_its_neighbours_is_refused(
    llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LlamaModel.forward

    @wraps(forward)
    def beside(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if not kwargs["use_cache"]:
            output.last_hidden_state = output.last_hidden_state * (1 + 0.01 * kwargs["input_ids"].shape[1])
        return output

    monkeypatch.setattr(LlamaModel, "forward", beside)
    with pytest.raises(PolicyError, match="reads a sequence differently beside a longer one"):
        probe(llama)


def test_model_that_takes_no_account_of_padding_is_refused(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LlamaModel.forward

    @wraps(forward)
    def unmasked(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", unmasked)
    with pytest.raises(PolicyError, match="rollouts would be wrong"):
        probe(llama)


def test_model_that_fails_is_refused_by_name(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("no such argument")

    monkeypatch.setattr(LlamaModel, "forward", failing)
    with pytest.raises(PolicyError, match=r"LlamaForCausalLM fails on a few tokens \(TypeError: no such argument\)"):
        probe(llama)


def test_model_with_layers_between_hidden_states_and_head_is_refused_by_name() -> None:
    shape = {"input_embedding_size": 8, "output_embedding_size": 24, "num_hidden_layers": 1, "is_decoder": True}
    model = build("RemBert", **{**SHAPE, **shape})
    with pytest.raises(PolicyError, match=r"RemBertForCausalLM fails on a few tokens \(RuntimeError"):
        policy_of(model)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, MemoryError])
def test_too_little_memory_is_not_the_models_fault(
    error: type[Exception], llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        torch.empty(2**60 if error is RuntimeError else 0, dtype=torch.uint8)
        raise error("no memory")

    monkeypatch.setattr(LlamaModel, "forward", failing)
    with pytest.raises(error, match="memory") as raised:
        probe(llama)
    assert type(raised.value) is error


def test_model_that_keeps_another_state_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "expand": 1}
    build("Mamba", **shape).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="MambaForCausalLM"):
        Policy.load(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_families_pass_in_half_precision(policy: Policy, dtype: torch.dtype) -> None:
    probe(policy.to(dtype))


def test_probe_can_be_turned_off(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "prefill", lambda *_: pytest.fail("the model was asked"))
    Policy(llama.model, llama.tokenizer, probing=False)


def test_probe_leaves_train_mode_and_random_numbers(family_folder: Callable[[str], Path]) -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    policy = Policy.load(str(family_folder("gpt2")))
    torch.manual_seed(1)
    probe(policy)
    assert torch.equal(torch.rand(2), expected)
    assert all(part.training for part in policy.modules())


# Rotary frequencies that depend on the longest sequence of a batch


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize(("name", "arguments"), [("Phi3", {"original_max_position_embeddings": 16}), ("Llama", {})])
def test_longrope_is_read_on_one_side_of_its_limit(name: str, arguments: dict[str, Any]) -> None:
    arguments = {**GROUPED, **arguments, "max_position_embeddings": 64, "rope_parameters": {**LONGROPE}}
    policy = policy_of(build(name, **arguments))
    assert policy.max_tokens == 16
    short, long = torch.arange(5, 11)[None], torch.arange(5, 35)[None]
    alone = policy.model(short).logits
    beside = policy.model(torch.cat([torch.nn.functional.pad(short, (0, 24)), long])).logits
    assert not torch.allclose(beside[:1, :6], alone, atol=1e-4)  # what the limit is for


# Tokens that only one of model and tokenizer knows


def test_ids_without_a_token_are_never_sampled() -> None:
    model = build("Llama", **GROUPED, vocab_size=96, max_position_embeddings=64)
    with torch.no_grad():
        model.lm_head.weight[64:] *= 10  # the most probable, were they tokens
    policy = policy_of(model)
    for sampling in (GREEDY, Sampling(1.0)):
        rollouts = generate(policy, [[7, 8], [9]], 20, sampling, [0, 1])
        assert all(token < 64 for rollout in rollouts for token in rollout.completion)
        assert all(score <= 0 for rollout in rollouts for score in rollout.log_probabilities)


def tokenizer_with(**special: str) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens(special)
    return tokenizer


def test_padding_beyond_the_embeddings_is_another_token() -> None:
    policy = policy_of(make_model("llama"), tokenizer_with(pad_token="<padding>"))
    assert policy.tokenizer.pad_id == 64
    assert len(generate(policy, [[7, 8], [9]], 4, GREEDY)) == 2


def test_end_beyond_the_embeddings_is_refused() -> None:
    template = "{% for message in messages %}{{ message['content'] }} <over> {% endfor %}"
    tokenizer = tokenizer_with(eos_token="<over>")
    tokenizer.chat_template = template
    with pytest.raises(PolicyError, match="embeddings for 64 tokens, but a response ends with token 64"):
        policy_of(make_model("llama"), tokenizer)
