from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.rollout.vllm.fingerprint import check_weights, checksum, tensor_sums
from tests.rollout.vllm.stand_in import fused_model

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksums_of_parts_add_up_whatever_the_layout(dtype: torch.dtype) -> None:
    one, other = random(5, 7).to(dtype), random(3, 7, seed=1).to(dtype)
    whole = torch.cat([other, one, torch.zeros(4, 7, dtype=dtype)])
    assert checksum(whole) == checksum(one) + checksum(other)
    assert checksum(whole.T.contiguous()) == checksum(whole) == checksum(whole.T)
    assert checksum(whole) != checksum(one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_of_every_element_counts(dtype: torch.dtype) -> None:
    tensor = random(40).to(dtype)
    integers = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    bits = 8 * tensor.element_size()
    sums = []
    for element in range(40):
        for bit in range(bits):
            changed = tensor.clone()
            changed.view(integers)[element] ^= 1 << bit if bit < bits - 1 else -(1 << bit)
            sums.append(checksum(changed))
    assert checksum(tensor) not in sums
    assert len(set(sums)) > 0.99 * len(sums)


def test_changes_that_cancel_in_a_plain_sum_do_not() -> None:
    tensor = random(10)
    changed = tensor.clone()
    changed.view(torch.int32)[2] += 1
    changed.view(torch.int32)[7] -= 1
    assert checksum(changed) != checksum(tensor)


def test_large_tensors_are_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = random(1000)
    whole = checksum(tensor)
    monkeypatch.setattr("lightning_sdft.rollout.vllm.fingerprint.BLOCK", 7)
    assert checksum(tensor) == whole


def worker(policy: Policy, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    return tensor_sums(fused_model(policy.model.state_dict(), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_and_padded_weights_of_any_precision_are_the_policys(llama: Policy, dtype: torch.dtype) -> None:
    assert check_weights(llama.weights(), [worker(llama, dtype)])


def test_fingerprint_tells_weights_apart(llama: Policy) -> None:
    before = check_weights(llama.weights(), [worker(llama)])
    assert before == check_weights(llama.weights(), [worker(llama)])
    with torch.no_grad():
        llama.model.model.norm.weight[3] += 1e-3
    assert before != check_weights(llama.weights(), [worker(llama)])


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.q_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"),
        ("model.norm.weight", "model.norm.weight"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_one_element_that_did_not_arrive_is_an_error_that_names_its_tensor(
    name: str, reported: str, llama: Policy
) -> None:
    stale = worker(llama)
    with torch.no_grad():
        llama.weights()[name].view(-1)[5] += 1e-6
    with pytest.raises(RolloutError, match=rf"1 of \d+ tensors differ, the first is {reported}"):
        check_weights(llama.weights(), [stale])


def test_repacked_tensors_are_left_out(llama: Policy) -> None:
    model = fused_model(llama.model.state_dict())
    model.model.layers.get_submodule("0").self_attn.qkv_proj.weight = torch.nn.Parameter(torch.empty(0))  # type: ignore
    sums = tensor_sums(model)
    assert not any("layers.0.self_attn.q_proj.weight" in name for each in sums for name in each["tensors"])
    assert check_weights(llama.weights(), [sums])


def test_nothing_to_compare_is_an_error(llama: Policy) -> None:
    sums = [{**each, "tensors": [f"other.{name}" for name in each["tensors"]]} for each in worker(llama)]
    with pytest.raises(RolloutError, match="nothing can be compared"):
        check_weights(llama.weights(), [sums])


# Over two devices


def split(policy: Policy) -> list[list[dict[str, Any]]]:
    """Projections cut in two by rows, and what cannot be cut repeated."""
    halves: list[list[dict[str, Any]]] = []
    for half in range(2):
        model = fused_model(policy.model.state_dict())
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                owner, _, leaf = name.rpartition(".")
                cut = torch.nn.Parameter(parameter.chunk(2)[half].clone())
                model.get_submodule(owner).register_parameter(leaf, cut)
        halves.append(tensor_sums(model))
    return halves


def test_tensors_that_are_cut_or_repeated_are_the_policys(llama: Policy) -> None:
    halves = split(llama)
    assert check_weights(llama.weights(), halves)
    for name in ("model.norm.weight", "model.layers.1.mlp.down_proj.weight"):
        changed = [[dict(each) for each in half] for half in halves]
        (entry,) = [each for each in changed[1] if each["tensors"][0] == name]
        entry["checksum"] += 1
        with pytest.raises(RolloutError, match=name):
            check_weights(llama.weights(), changed)


def test_a_tensor_repeated_in_part_is_left_out(llama: Policy) -> None:
    """More devices than heads of keys and values: each has its own part of the queries, and all have the same keys."""
    halves = split(llama)
    for half in halves:
        (entry,) = [each for each in half if each["tensors"][0] == "model.layers.0.self_attn.q_proj.weight"]
        entry["elements"] += 100
        entry["checksum"] += 1
    assert check_weights(llama.weights(), halves)
