from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import LlamaModel

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy, decoding
from lightning_sdft.policy.decoding import DecodingState, GrowingLayer, buckets, shared_prefix
from tests.conftest import make_model
from tests.rollout.test_in_process import ragged_prompts

TOKENS = torch.tensor([11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23])


def next_logits(policy: Policy, tokens: list[int]) -> Tensor:
    """The model's own logits after a sequence, without cache or padding."""
    logits: Tensor = policy.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return logits


@pytest.fixture(autouse=True)
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No gradient, no dropout, and buffers that have to grow soon."""
    monkeypatch.setattr(decoding, "_spare", lambda length: 2)
    with torch.no_grad():
        yield


def follow(policy: Policy, state: DecodingState, sequences: list[list[int]], steps: int) -> None:
    """Go on with given tokens; compare each step with sequences read anew."""
    for step in range(steps):
        expected = torch.stack([next_logits(policy, sequence) for sequence in sequences])
        torch.testing.assert_close(state.logits, expected, rtol=1e-4, atol=1e-4)
        tokens = (TOKENS[: len(sequences)] + step) % 60
        for sequence, token in zip(sequences, tokens.tolist(), strict=True):
            sequence.append(token)
        policy.advance(state, tokens)


def test_logits_are_those_of_the_sequences_alone(policy: Policy) -> None:
    policy.eval()
    sequences = ragged_prompts()
    follow(policy, policy.prefill(sequences), [list(prompt) for prompt in sequences], 8)


def test_equal_lengths_are_read_without_mask(policy: Policy) -> None:
    policy.eval()
    sequences = [[2, token, 12, 13, 14, 15] for token in range(20, 25)]
    state = policy.prefill(sequences)
    assert state.attention_mask is None
    follow(policy, state, sequences, 6)  # beyond the sliding window of the Gemmas


@pytest.mark.parametrize("rows", [[0, 2, 3, 11], [11], [3, 4, 5, 6, 7, 8, 9, 10, 11], [1], list(range(11))])
def test_keeping_rows(policy: Policy, rows: list[int]) -> None:
    policy.eval()
    prompts = ragged_prompts()
    sequences = [list(prompt) for prompt in prompts]
    state = policy.prefill(prompts)
    follow(policy, state, sequences, 2)
    kept = state.keep(rows)
    assert sorted(kept) == rows
    assert all(row == place for place, row in enumerate(kept) if place in rows)  # those that can stay do
    sequences = [sequences[row] for row in kept]
    assert state.cache.get_seq_length() == max(map(len, sequences))  # no column is padding in all rows
    follow(policy, state, sequences, 4)
    follow(policy, state, [sequences[row] for row in state.keep([len(rows) - 1])], 4)


def test_mask_goes_with_the_last_padded_row(llama: Policy) -> None:
    llama.eval()
    sequences = [[2, 11, 12], [2, 13, 14], [2, 15]]
    state = llama.prefill(sequences)
    assert state.attention_mask is not None
    state.keep([0, 1])
    assert state.attention_mask is None
    follow(llama, state, sequences[:2], 3)


def test_keys_are_written_in_place_until_there_is_no_room(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_spare", lambda length: 4)
    state = llama.prefill([[2, 11, 12]])
    places = []
    for _ in range(9):
        llama.advance(state, torch.tensor([13]))
        layer = state.layers[0]
        places.append((layer.key_buffer.data_ptr(), layer.value_buffer.data_ptr()))
    assert [places.count(place) for place in dict.fromkeys(places)] == [4, 5]


def test_rows_that_stay_are_not_copied(llama: Policy) -> None:
    state = llama.prefill([[2, 11, 12], [2, 13, 14], [2, 15, 16]])
    before = state.layers[0].key_buffer.data_ptr()
    assert state.keep([1, 2]) == [2, 1]
    assert state.layers[0].key_buffer.data_ptr() == before


# Prefill


def shapes_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the batches that are read from now on."""
    shapes: list[tuple[int, ...]] = []
    read = DecodingState.read

    def spied(state: DecodingState, tokens: Tensor) -> Tensor:
        shapes.append(tuple(tokens.shape))
        return read(state, tokens)

    monkeypatch.setattr(DecodingState, "read", spied)
    return shapes


def test_equal_prompts_are_read_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.eval()
    first, second = [2, 11, 12, 13, 14, 15], [2, 21, 3]
    prompts = [first, second, first, first, second]
    shapes = shapes_read(monkeypatch)
    state = policy.prefill(prompts)
    assert shapes == [(2, 6)]
    follow(policy, state, [list(prompt) for prompt in prompts], 6)


def test_prompts_of_very_different_lengths_are_read_apart(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_sdft.policy.policy.call_tokens", lambda model: 4)
    policy.eval()
    prompts = [[2] * 3, [2] * 30, [2, 11], [2] * 28, [2, 12, 13, 14], [7] * 29]
    shapes = shapes_read(monkeypatch)
    state = policy.prefill(prompts)
    assert shapes == [(3, 30), (3, 4)]
    follow(policy, state, [list(prompt) for prompt in prompts], 4)


def test_buckets_hold_little_padding_and_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BUCKET_TOKENS", 50)
    prompts = [[0] * length for length in (60, 20, 20, 20, 19, 12, 5, 5, 4)]
    lengths = [[len(prompt) for prompt in bucket] for bucket in buckets(prompts, 10)]
    assert lengths == [[60], [20, 20], [20, 19], [12, 5], [5, 4]]


SYSTEM = [2, 11, 12, 13, 14, 15, 16, 17]
CHATS = [[*SYSTEM, *rest] for rest in ([21], [22, 23, 24], [21, 25, 26, 27, 28, 29, 31], [22], [23, 24] * 7)]


def test_what_all_prompts_begin_with_is_read_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.eval()
    monkeypatch.setattr("lightning_sdft.policy.policy.call_tokens", lambda model: 20)
    shapes = shapes_read(monkeypatch)
    state = policy.prefill(CHATS)
    assert shapes == [(1, 8), (3, 14), (2, 1)]  # the prefix, and what is left: 14, 7 and 3 tokens, 1 and 1
    sequences = [list(prompt) for prompt in CHATS]
    follow(policy, state, sequences, 3)
    follow(policy, state, [sequences[row] for row in state.keep([1, 3])], 3)


def test_a_prompt_may_be_little_more_than_the_prefix(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.eval()
    monkeypatch.setattr("lightning_sdft.policy.policy.call_tokens", lambda model: 6)
    prompts = [SYSTEM, [*SYSTEM, 21], [*SYSTEM, 21, 22, 23], SYSTEM[:5]]
    shapes = shapes_read(monkeypatch)
    state = policy.prefill(prompts)
    assert shapes == [(1, 4), (3, 7), (1, 1)]
    follow(policy, state, [list(prompt) for prompt in prompts], 5)


@pytest.mark.parametrize(
    ("prompts", "length"),
    [
        (CHATS, 8),
        ([SYSTEM, SYSTEM[:5]], 0),  # 4 tokens of one more prompt are not worth a reading
        ([SYSTEM, SYSTEM[:5], SYSTEM[:6]], 4),
        ([SYSTEM, [3, *SYSTEM]], 0),
        ([SYSTEM], 0),
        ([[2], [2, 3]], 0),
    ],
)
def test_shared_prefix(prompts: list[list[int]], length: int) -> None:
    assert shared_prefix([tuple(prompt) for prompt in prompts], 6) == SYSTEM[:length]


# Other models


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Mamba", {"state_size": 4, "num_hidden_layers": 2}),
        ("Jamba", {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 8, "mamba_d_state": 4}),
        ("Qwen3Next", {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}),
    ],
)
def test_a_model_with_another_memory_is_refused_by_name(name: str, arguments: dict[str, Any]) -> None:
    config = getattr(transformers, f"{name}Config")(hidden_size=16, vocab_size=64, **arguments)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(PolicyError, match=rf"{name}ForCausalLM remembers .* attention in every layer"):
        DecodingState(model, [0], 1)


def test_a_model_that_ignores_the_cache_is_refused_by_name(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GrowingLayer, "update", lambda self, keys, values, *rest, **others: (keys, values))
    with pytest.raises(PolicyError, match=r"LlamaForCausalLM remembers .* something else than the cache"):
        llama.prefill([[2, 11]])


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_goes_by_the_name_that_a_model_gives_it(
    name: str, llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LlamaModel.forward
    parameters = inspect.signature(forward).parameters
    (known,) = parameters.keys() & {"cache", "past_key_values"}

    def renamed(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = {key: kwargs.pop(key, None) for key in ("cache", "past_key_values")}
        assert [key for key, cache in given.items() if cache is not None] in ([], [name])
        return forward(self, *args, **{known: given[name]}, **kwargs)

    own = [each.replace(name=name) if each.name == known else each for each in parameters.values()]
    renamed.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    monkeypatch.setattr(LlamaModel, "forward", renamed)
    llama.eval()
    sequences = [[2, 11, 12], [2, 13]]
    follow(llama, llama.prefill(sequences), sequences, 3)


@pytest.mark.parametrize(("family", "attention"), [("gemma2", "eager"), ("gemma3", "eager"), ("gemma3", "sdpa")])
@pytest.mark.parametrize("window", [2, 4, 8, 64])
def test_sliding_windows(
    family: str,
    attention: str,
    window: int,
    family_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(family, sliding_window=window)
    model.set_attn_implementation(attention)
    policy = Policy(model.eval(), Policy.load(str(family_folder(family))).tokenizer)
    monkeypatch.setattr("lightning_sdft.policy.policy.call_tokens", lambda model: 6)
    for prompts in (ragged_prompts(), [[2, 11, 12], [2, 13, 14]], CHATS * 2):
        follow(policy, policy.prefill(prompts), [list(prompt) for prompt in prompts], 6)
