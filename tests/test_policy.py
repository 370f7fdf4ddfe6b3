from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from lightning_sdft.losses import Head
from lightning_sdft.policy import Policy, TokenSequence, evaluating
from lightning_sdft.tokenizer import PolicyError, Tokenizer, load_tokenizer
from tests.conftest import END, STOP_IDS, TURNS_WITH_END, VOCABULARY, make_model, make_tokenizer

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
    monkeypatch.setattr(Policy, "head", property(lambda self: Head(self.model.get_output_embeddings().weight)))
    with pytest.raises(PolicyError, match="makes logits"):
        Policy.load(name)


# Loading and saving


def test_saved_folder_is_read_by_transformers(policy: Policy, family: str, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    policy.eval().save_pretrained(tmp_path)
    assert not policy.training
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
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


def saved_tokenizer(folder: Path, template: str | None, **special_tokens: str) -> str:
    make_tokenizer(template, **special_tokens).save_pretrained(folder)
    make_model("llama").config.save_pretrained(folder)
    return str(folder)


def test_conversation_ends_where_the_response_begins(llama: Policy) -> None:
    tokens = llama.tokenizer.encode(QUESTION)
    assert [VOCABULARY[token] for token in tokens] == ["<user>", "w1", "w2", "<end>", "<assistant>"]


def test_completion_ends_as_the_template_ends_it(llama: Policy) -> None:
    tokenizer = llama.tokenizer
    completion = tokenizer.encode_completion("w3 w4")
    assert [VOCABULARY[token] for token in completion] == ["w3", "w4", "<end>"]
    answered = [*QUESTION, {"role": "assistant", "content": "w3 w4"}]
    rendered = tokenizer.hugging_face.apply_chat_template(answered, return_dict=True)["input_ids"]
    assert tokenizer.encode(QUESTION) + completion == rendered
    assert tokenizer.decode(completion) == "w3 w4"


def test_end_of_turn_other_than_end_of_sequence(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path, TURNS_WITH_END, eos_token="<eos>", pad_token="<pad>")
    eos = VOCABULARY.index("<eos>")
    GenerationConfig(eos_token_id=[eos, END]).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(name)
    assert tokenizer.stop_ids == {eos, END}
    assert tokenizer.end_id == END
    assert tokenizer.encode_completion("w3")[-1] == END


def test_end_of_turn_that_the_template_does_not_write_is_end_of_sequence(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path, "{% for message in messages %}{{ message['content'] }} {% endfor %}")
    assert load_tokenizer(name).end_id == END


def test_stop_ids_of_a_generation_config_with_one_end(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path, TURNS_WITH_END, eos_token="<eos>", pad_token="<pad>")
    GenerationConfig(eos_token_id=END).save_pretrained(tmp_path)
    assert load_tokenizer(name).stop_ids == {VOCABULARY.index("<eos>"), END}


def test_padding_is_end_of_sequence_where_there_is_none(tmp_path: Path) -> None:
    assert load_tokenizer(saved_tokenizer(tmp_path, TURNS_WITH_END, eos_token="<end>")).pad_id == END


def test_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path / "wordy", None)
    with pytest.raises(PolicyError, match=r"wordy.* no chat template"):
        load_tokenizer(name)
    with pytest.raises(PolicyError, match=r"wordy.* no chat template"):
        Policy.load(name, pretrained=False)


def test_tokenizer_without_end_of_sequence_is_refused(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path / "endless", TURNS_WITH_END, pad_token="<pad>")
    with pytest.raises(PolicyError, match=r"endless.* no end-of-sequence token"):
        load_tokenizer(name)


def test_given_tokenizer_is_used(llama: Policy, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(family_folder("llama"), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    policy = Policy.load(str(tmp_path / "model"), tokenizer=llama.tokenizer)
    assert policy.tokenizer is llama.tokenizer


def test_special_tokens_are_encoded_once_where_the_tokenizer_adds_its_own(tmp_path: Path) -> None:
    name = saved_tokenizer(tmp_path, "<eos> " + TURNS_WITH_END)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<eos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}},
    }
    path.write_text(json.dumps(content))
    tokenizer = load_tokenizer(name)
    assert tokenizer.hugging_face("w1")["input_ids"][0] == 1
    assert tokenizer.encode(QUESTION).count(1) == 1
    assert 1 not in tokenizer.encode_completion("w1")


# Modes


def test_evaluating_restores_the_mode_of_every_part() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    module[1].eval()
    modes = [part.training for part in module.modules()]
    assert len(set(modes)) == 2
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == modes


def test_evaluating_restores_after_an_error() -> None:
    module = nn.Sequential(nn.Dropout())
    with pytest.raises(RuntimeError, match="inside"), evaluating(module):
        raise RuntimeError("inside")
    assert all(part.training for part in module.modules())


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
