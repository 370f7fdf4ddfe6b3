from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.backends.default.ops import _get_4bit_quantize_bounds
from bitsandbytes.backends.utils import _code_4bit_cache
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.bitsandbytes import dequantize_bnb_weight

from lightning_sdft.errors import PolicyError, RolloutError, SettingError
from lightning_sdft.losses import cross_entropy
from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.lora import STUDENT, LoRA, adapter_weights, add_adapter
from lightning_sdft.policy.precision import default_precision
from lightning_sdft.policy.quantized import BASES, Base, QuantizedLinear, dequantize_, quantize_, stored_as
from lightning_sdft.records import GREEDY
from lightning_sdft.rollout import generate
from lightning_sdft.rollout.vllm.base import VLLMRollouts
from tests.conftest import make_model, make_tokenizer, move_adapter
from tests.policy.test_lora import TOKENS
from tests.policy.test_policy import SEQUENCES, own_logits
from tests.rollout.reference import generate_with_transformers

KINDS: list[Any] = list(BASES)
POSITIVE = [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
NEGATIVE = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911]
LEVELS = torch.tensor([*NEGATIVE, 0.0, *POSITIVE])
"""The 16 numbers of the paper (appendix E), rounded."""

WHOLE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
"""A model whose rows are whole blocks of 64 weights."""

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(policy: Policy, base: Base, **arguments: Any) -> Policy:
    """A policy over a base in few bits, with an adapter that matters."""
    torch.manual_seed(0)
    add_adapter(policy.model, LoRA(rank=3, alpha=6, base=base, **arguments))
    move_adapter(policy.model)
    return policy


def quantized(model: nn.Module) -> dict[str, QuantizedLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}


@pytest.fixture
def fresh_tables() -> None:
    """bitsandbytes has not quantized in this process yet."""
    _code_4bit_cache.clear()
    _get_4bit_quantize_bounds.cache_clear()


@pytest.mark.usefixtures("fresh_tables")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_is_the_nearest_that_its_bits_can_say(kind: Any, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 40)
    exact = plain.weight.detach().clone()
    with default_precision(precision):  # in which bf16-true, for one, makes a model
        layer = BASES[kind](plain)
    found = layer.dequantized(torch.float32)
    if kind == "int8":
        step = exact.abs().amax(1, keepdim=True) / 127
        torch.testing.assert_close(found, (exact / step).round() * step)
    else:
        blocks = exact.view(-1, 64)
        largest = blocks.abs().amax(1, keepdim=True)
        scales = found.view(-1, 64).abs().amax(1, keepdim=True)
        torch.testing.assert_close(scales, largest, rtol=0.06, atol=0)  # which 8 bits say nearly
        nearest = (blocks / largest)[..., None].sub(LEVELS).abs().argmin(-1)
        torch.testing.assert_close(found.view(-1, 64), LEVELS[nearest] * scales, rtol=1e-3, atol=1e-5)
    inputs = torch.randn(3, 96)
    torch.testing.assert_close(layer(inputs), inputs @ found.T + plain.bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_alone_are_in_few_bits(kind: Any, family_folder: Callable[[str], Path]) -> None:
    for family in ("qwen2", "gemma2"):
        policy = Policy.load(str(family_folder(family)))
        before = dict(policy.model.named_parameters())
        sizes = {name: each.nbytes for name, each in before.items()}
        quantize_(policy.model, kind)
        assert len(quantized(policy.model)) == 2 * len(LAYERS)
        assert stored_as(policy.model) == kind
        for name, layer in quantized(policy.model).items():
            bits = sum(each.nbytes for each in (*layer.parameters(), *layer.buffers()))
            small = 300 * 4  # the table of a layer, which counts in small ones
            assert bits < sizes[f"{name}.weight"] * {"nf4": 0.135, "int8": 0.26}[kind] + small
        after = dict(policy.model.named_parameters())
        same = {name for name in before if name in after and after[name] is before[name]}
        assert before.keys() - same == {f"{name}.weight" for name in quantized(policy.model)}
        assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("family", "shape"), [("llama", {}), ("qwen2", WHOLE), ("gemma3", {**WHOLE, "query_pre_attn_scalar": 16})]
)
@pytest.mark.parametrize("kind", KINDS)
def test_computes_and_learns_as_the_plain_model_of_the_same_numbers(
    kind: Any, family: str, shape: dict[str, Any], tmp_path: Path
) -> None:
    make_model(family, **shape).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    ours, plain = (adapted(Policy.load(str(tmp_path)), kind) for _ in range(2))
    for name in [name for name, layer in plain.model.named_modules() if isinstance(layer, QuantizedLinear)]:
        plain.model.set_submodule(name, plain.model.get_submodule(name).plain())
    assert stored_as(plain.model) == "full"
    torch.testing.assert_close(own_logits(ours), own_logits(plain), rtol=1e-4, atol=1e-4)
    weights = torch.linspace(0.1, 1, len(TOKENS))
    for policy in (ours, plain):
        cross_entropy(policy.hidden(SEQUENCES), policy.head, TOKENS, weights).loss.backward()
    assert {name for name, each in ours.model.named_parameters() if each.requires_grad} == adapter_weights(
        ours.model, STUDENT
    ).keys()
    for name, each in adapter_weights(ours.model, STUDENT).items():
        expected = plain.model.get_parameter(name).grad
        assert each.grad is not None
        assert expected is not None
        torch.testing.assert_close(each.grad, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item(), msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_trains_and_answers_with_the_same_numbers(kind: Any, llama: Policy) -> None:
    """Which bitsandbytes' own layers do not on every CPU, whose bits they move when they answer."""
    adapted(llama, kind).train()
    trained = own_logits(llama)
    assert torch.equal(own_logits(llama.eval()), trained)
    prompts = [sequence.prompt for sequence in SEQUENCES]
    ours, plain = (write(llama, prompts, 8, GREEDY) for write in (generate, generate_with_transformers))
    assert [each.completion for each in ours] == [each.completion for each in plain]
    assert torch.equal(own_logits(llama.train()), trained)


@pytest.mark.parametrize("kind", KINDS)
def test_model_without_its_adapter_is_the_quantized_one(kind: Any, llama: Policy) -> None:
    quantize_(llama.model, kind)
    base = own_logits(llama)
    adapted(llama, "full")
    with torch.no_grad():
        assert (own_logits(llama) - base).abs().max() > 0.1
        view = AdapterView(llama, None)
        torch.testing.assert_close(view.head(view.hidden(SEQUENCES)), base, rtol=1e-4, atol=1e-4)


def test_four_bits_are_those_of_transformers(tmp_path: Path) -> None:
    """In a model whose rows are whole blocks; the others bitsandbytes reads wrongly on CPUs."""
    model = make_model("llama", **WHOLE)
    model.save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings)
    quantize_(model, "nf4")
    for name, layer in quantized(model).items():
        expected = dequantize_bnb_weight(theirs.get_submodule(name).weight)
        assert torch.equal(layer.dequantized(torch.float32), expected), name


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_products_are_narrow_and_scales_are_not(kind: Any, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = BASES[kind](nn.Linear(64, 8))
    inputs = torch.randn(2, 64, requires_grad=True)
    exact = layer(inputs)
    with torch.autocast("cpu", precision):
        narrow = layer(inputs)
    assert narrow.dtype == precision
    torch.testing.assert_close(narrow.float(), exact, rtol=0.05, atol=0.05)
    narrow.sum().backward()
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, layer.dequantized(torch.float32).sum(0).expand(2, -1), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_of_the_policy_leaves_bits_and_scales_alone(kind: Any, llama: Policy) -> None:
    adapted(llama, kind)
    before = {name: layer.dequantized(torch.float32) for name, layer in quantized(llama.model).items()}
    llama.to(torch.bfloat16)
    assert all(
        torch.equal(layer.dequantized(torch.float32), before[name]) for name, layer in quantized(llama.model).items()
    )
    assert llama.head.weight.dtype == torch.bfloat16


def test_modules_that_are_trained_in_full_are_not_quantized(llama: Policy) -> None:
    adapted(llama, "int8", modules_to_save=["mlp"])
    assert {name.split(".")[-2] for name in quantized(llama.model)} == set(LAYERS[:4])


def test_plain_again(llama: Policy) -> None:
    quantize_(llama.model, "int8")
    before = own_logits(llama)
    dequantize_(llama.model)
    assert {type(layer) for layer in llama.model.modules() if isinstance(layer, nn.Linear)} == {nn.Linear}
    torch.testing.assert_close(own_logits(llama), before, rtol=1e-4, atol=1e-4)


# What cannot be


def test_model_without_linear_layers_is_refused(family_folder: Callable[[str], Path]) -> None:
    policy = Policy.load(str(family_folder("gpt2")))
    with pytest.raises(PolicyError, match=r"lora.base=int8: GPT2LMHeadModel has no linear layers .*; leave base out"):
        quantize_(policy.model, "int8")


def test_precision_without_a_form_in_four_bits_is_refused(llama: Policy) -> None:
    with pytest.raises(PolicyError, match=r"lora.base=nf4 .* not torch.float64; choose another trainer.precision"):
        quantize_(llama.model.double(), "nf4")


def test_unknown_base_is_refused() -> None:
    with pytest.raises(SettingError, match="base=fp4 of LoRA is none of full, nf4, int8"):
        LoRA(base="fp4")  # type: ignore[arg-type]


def test_weights_that_are_integers_already_are_refused(llama: Policy, tmp_path: Path) -> None:
    settings = BitsAndBytesConfig(load_in_8bit=True)
    llama.save_pretrained(tmp_path / "plain")
    AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=settings).save_pretrained(tmp_path)
    llama.tokenizer.hugging_face.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match=r"holds quantized weights \(int8\), .*; name the model .* lora.base=nf4"):
        Policy.load(str(tmp_path))


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, llama: Policy) -> None:
    monkeypatch.setattr("lightning_sdft.policy.quantized.find_spec", lambda _: None)
    with pytest.raises(PolicyError, match=r"needs bitsandbytes: pip install 'lightning-sdft\[quantized\]'"):
        quantize_(llama.model, "nf4")


def test_vllm_is_refused(llama: Policy) -> None:
    class Engine(VLLMRollouts):
        send_weights = complete = None  # type: ignore[assignment]

    with pytest.raises(RolloutError, match=r"Engine cannot take the weights of a model in few bits \(lora.base=int8\)"):
        Engine().start(adapted(llama, "int8"), 8)
