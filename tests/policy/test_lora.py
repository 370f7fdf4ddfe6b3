from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sdft.errors import PolicyError
from lightning_sdft.losses import cross_entropy
from lightning_sdft.modules import SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_export import merge_adapter
from lightning_sdft.policy.lora import (
    STUDENT,
    TEACHER,
    LoRA,
    adapted_layers,
    adapter_state,
    adapter_weights,
    add_adapter,
    using_adapter,
)
from lightning_sdft.records import GREEDY
from lightning_sdft.rollout import generate
from tests.conftest import move_adapter
from tests.policy.test_policy import SEQUENCES, own_logits
from tests.rollout.reference import generate_with_transformers

TARGETS: dict[str, dict[str, Any]] = {
    "all-linear": {},
    "head": {"target_modules": ["lm_head"]},
    "embedding": {"target_modules": ["embed_tokens"]},
    "whole head": {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]},
    "whole embedding": {"target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"]},
    "whole layers": {"modules_to_save": ["mlp", "norm"]},
}
"""What may be trained, in the names of all families but one."""

TOKENS = torch.tensor([token for sequence in SEQUENCES for token in sequence.completion])
GPT2_NAMES = {"embed_tokens": "wte", "norm": "ln_f"}


def settings(kind: str, family: str = "llama", **arguments: Any) -> LoRA:
    """A small adapter that counts twice."""
    chosen = TARGETS[kind]
    if family == "gpt2":
        chosen = {key: [GPT2_NAMES.get(name, name) for name in names] for key, names in chosen.items()}
    return LoRA(**{"rank": 3, "alpha": 6, **chosen, **arguments})


def adapted(policy: Policy, lora: LoRA) -> Policy:
    """The policy in eval mode, with an adapter that matters."""
    add_adapter(policy.eval().model, lora)
    move_adapter(policy.model)
    return policy


# The policy


@pytest.mark.parametrize("kind", TARGETS)
def test_head_of_hidden_states_is_the_logits_of_the_model_and_so_are_gradients(
    kind: str, family: str, policy: Policy
) -> None:
    before = own_logits(policy.eval())
    add_adapter(policy.model, settings(kind, family))
    assert torch.equal(own_logits(policy), before)  # a new adapter changes nothing
    move_adapter(policy.model)
    logits = own_logits(policy)
    assert (logits - before).abs().max() > 0.3
    torch.testing.assert_close(policy.head(policy.hidden(SEQUENCES)), logits, rtol=1e-4, atol=1e-4)

    weights = torch.linspace(0.1, 1, len(TOKENS))
    cross_entropy(policy.hidden(SEQUENCES), policy.head, TOKENS, weights).loss.backward()
    trained = adapter_weights(policy.model, STUDENT)
    assert {name for name, each in policy.model.named_parameters() if each.requires_grad} == trained.keys()
    assert {name for name, each in policy.model.named_parameters() if each.grad is not None} == trained.keys()
    loss = (weights * torch.nn.functional.cross_entropy(logits, TOKENS, reduction="none")).sum()
    expected = torch.autograd.grad(loss, list(trained.values()))
    for (name, weight), gradient in zip(trained.items(), expected, strict=True):
        assert weight.grad is not None
        assert gradient.abs().max() > 1e-5, name
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize("kind", TARGETS)
def test_weights_for_others_have_the_adapter_in_them(kind: str, family: str, policy: Policy) -> None:
    adapted(policy, settings(kind, family))
    weights = policy.weights()
    merge_adapter(policy.model)
    expected = policy.weights()
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, msg=name)


@pytest.mark.parametrize("kind", ["head", "whole embedding", "whole layers"])
def test_rollouts_are_those_of_the_model(kind: str, llama: Policy) -> None:
    adapted(llama, settings(kind))
    prompts = [sequence.prompt for sequence in SEQUENCES]
    ours, plain = (write(llama, prompts, 12, GREEDY) for write in (generate, generate_with_transformers))
    assert [each.completion for each in ours] == [each.completion for each in plain]
    assert max(len(set(each.completion)) for each in ours) > 2


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 3 / 4), (True, 3 / 2)])
def test_scale_is_alpha_over_rank_or_its_root(stabilized: bool, scale: float, llama: Policy) -> None:
    lora = LoRA(rank=4, alpha=3, target_modules=["lm_head"], rank_stabilized=stabilized)
    weight = llama.head.weight.detach().clone()
    adapted(llama, lora)
    down, up = adapter_weights(llama.model).values()
    assert down.shape == (4, weight.shape[1])
    torch.testing.assert_close(llama.head.gathered().weight, weight + scale * up @ down)


def test_only_the_named_layers_get_an_adapter(llama: Policy) -> None:
    add_adapter(llama.model, LoRA(target_modules=r".*layers\.1\.self_attn\.[qv]_proj"))
    layers = {name.rsplit(".", 3)[0] for name in adapter_weights(llama.model)}
    assert layers == {f"model.layers.1.self_attn.{each}_proj" for each in "qv"}


def test_dropout_is_on_in_training_and_off_in_rollouts(llama: Policy) -> None:
    adapted(llama, settings("all-linear", dropout=0.5)).train()
    assert not torch.equal(llama.hidden(SEQUENCES), llama.hidden(SEQUENCES))
    first, second = (generate(llama, [SEQUENCES[0].prompt], 8, GREEDY)[0] for _ in range(2))
    assert first.log_probabilities == second.log_probabilities
    assert all(part.training for part in llama.modules())


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", TARGETS)
def test_adapter_stays_float32_when_the_model_is_cast(kind: str, dtype: torch.dtype, llama: Policy) -> None:
    adapted(llama, settings(kind))
    before = {name: weight.detach().clone() for name, weight in adapter_weights(llama.model).items()}
    expected = own_logits(llama)
    llama.to(dtype)
    assert llama.model.dtype == dtype
    assert all(torch.equal(weight, before[name]) for name, weight in adapter_weights(llama.model).items())
    logits = llama.head(llama.hidden(SEQUENCES))
    assert torch.nn.functional.cosine_similarity(logits, expected).median() > 0.99
    cross_entropy(llama.hidden(SEQUENCES), llama.head, TOKENS, torch.ones(len(TOKENS))).loss.backward()
    for name, weight in adapter_weights(llama.model).items():
        assert weight.grad is not None, name
        assert weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all()


def test_whole_modules_in_a_low_precision_model_compute_in_their_own(llama: Policy) -> None:
    adapted(llama, settings("whole layers")).to(torch.bfloat16)
    seen: list[Any] = []
    saved = [layer for layer in adapted_layers(llama.model) if hasattr(layer, "original_module")]
    for layer in saved:
        layer.modules_to_save[STUDENT].register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
        layer.register_forward_hook(lambda _, args, output: seen.append((output,)))
    llama.hidden(SEQUENCES)
    assert len(seen) == 2 * len(saved)
    inside, outside = seen[::2], seen[1::2]
    assert {each.dtype for pair in inside for each in pair} == {torch.float32}
    assert {each.dtype for (each,) in outside} == {torch.bfloat16}


def test_adapter_in_a_model_that_was_loaded_in_low_precision_is_float32(family_folder: Callable[[str], Path]) -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        policy = Policy.load(str(family_folder("llama")))
        add_adapter(policy.model, settings("whole layers"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {weight.dtype for weight in adapter_weights(policy.model).values()} == {torch.float32}
    assert {weight.dtype for weight in policy.parameters() if not weight.requires_grad} == {torch.bfloat16}


def test_adapter_moves_between_devices(llama: Policy) -> None:
    adapted(llama, settings("embedding")).to(device="meta", dtype=torch.bfloat16)
    weights = adapter_weights(llama.model).values()
    assert {(str(weight.device), weight.dtype) for weight in weights} == {("meta", torch.float32)}
    assert all(weight.requires_grad for weight in weights)


# Several adapters


@pytest.fixture
def pair(llama: Policy) -> Policy:
    """A policy with two adapters."""
    adapted(llama, settings("whole layers"))
    add_adapter(llama.model, settings("whole layers"), TEACHER)
    move_adapter(llama.model, TEACHER, seed=1)
    return llama


def state(policy: Policy) -> list[Any]:
    """Which adapter is in use, and what is trained."""
    used = [(list(layer.active_adapters), layer.disable_adapters) for layer in adapted_layers(policy.model)]
    return [used, [weight.requires_grad for weight in policy.parameters()]]


def test_students_adapter_is_the_one_that_is_used_and_trained(pair: Policy) -> None:
    assert state(pair)[0] == [([STUDENT], False)] * len(adapted_layers(pair.model))
    trained = {name for name, weight in pair.model.named_parameters() if weight.requires_grad}
    assert trained == adapter_weights(pair.model, STUDENT).keys()
    teacher = adapter_weights(pair.model, TEACHER)
    assert [name.replace(TEACHER, STUDENT) for name in teacher] == list(adapter_weights(pair.model, STUDENT))
    assert adapter_weights(pair.model).keys() == trained | teacher.keys()


@pytest.mark.parametrize("name", [TEACHER, None])
def test_another_adapter_is_used_for_a_while_and_nothing_else_changes(name: str | None, pair: Policy) -> None:
    before, layers, own = state(pair), adapted_layers(pair.model), own_logits(pair)
    with using_adapter(layers, name):
        assert state(pair)[1] == before[1]
        assert not torch.allclose(own_logits(pair), own, atol=0.1)
        with using_adapter(layers, STUDENT):
            assert torch.equal(own_logits(pair), own)
        assert not torch.allclose(own_logits(pair), own, atol=0.1)
    assert state(pair) == before

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    pair.model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt), using_adapter(layers, name):
        own_logits(pair)
    assert state(pair) == before


def test_weights_of_one_adapter_under_the_names_of_the_students(pair: Policy) -> None:
    everything = {f"policy.{name}": value for name, value in pair.state_dict().items()}
    teacher = adapter_state(everything, TEACHER)
    assert teacher.keys() == {f"policy.model.{name}" for name in adapter_weights(pair.model, STUDENT)}
    own = list(adapter_weights(pair.model, TEACHER).values())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(teacher.values(), own, strict=True))


# What is refused


def test_adapter_of_no_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="target_modules is empty"):
        LoRA(target_modules=[])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target_modules": ["q_proj", "v_prj"]},
            r"target_modules: there is no \['v_prj'\] to train in Llama",
        ),
        ({"target_modules": ["v_prj"]}, r"target_modules=\['v_prj'\]: .*; name some of .*'v_proj'"),
        ({"target_modules": "q_proj"}, r"target_modules='q_proj': .*; name some of .*'v_proj'"),
        ({"target_modules": ["norm"]}, r"target_modules=\['norm'\]: .*LlamaRMSNorm.*; name some of"),
        ({"modules_to_save": ["nrm"]}, r"modules_to_save: there is no \['nrm'\] to train in LlamaForCausalLM"),
        ({"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["mlp"]}, r"target_modules: .* \['up_proj'\]"),
        ({"target_modules": ["lm_head"], "dropout": 0.1}, "dropout=0.1 would not reach the head"),
    ],
)
def test_adapter_that_the_model_cannot_have_is_refused(arguments: dict[str, Any], message: str, llama: Policy) -> None:
    with pytest.raises(PolicyError, match=message):
        add_adapter(llama.model, LoRA(**arguments))


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_sdft.policy.lora.find_spec", lambda _: None)
    with pytest.raises(PolicyError, match=r"LoRA needs PEFT: pip install 'lightning-sdft\[lora\]'"):
        SFTModule("zoo/laptop", lora=LoRA())
    with pytest.raises(PolicyError, match=r"needs PEFT and bitsandbytes: pip install 'lightning-sdft\[quantized\]'"):
        SFTModule("zoo/laptop", lora=LoRA(base="nf4"))


def test_adapted_policy_is_not_written_as_if_it_were_a_plain_one(llama: Policy, tmp_path: Path) -> None:
    adapted(llama, settings("all-linear"))
    with pytest.raises(PolicyError, match="the policy has an adapter; merge it first"):
        llama.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_equal_settings_are_equal() -> None:
    assert LoRA(modules_to_save=("norm",)) == LoRA(modules_to_save=["norm"])


def test_settings_are_data_in_a_checkpoint(tmp_path: Path) -> None:
    lora = LoRA(rank=2, target_modules=["q_proj"], modules_to_save=["norm"])
    torch.save(lora, tmp_path / "lora.pt")
    assert torch.load(tmp_path / "lora.pt", weights_only=True) == lora
