from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lightning_sdft.policy import Policy
from lightning_sdft.policy.fixed_decoding import FixedState
from tests.policy.test_decoding import TOKENS, next_logits
from tests.rollout.test_in_process import ragged_prompts


@pytest.fixture(autouse=True)
def evaluate() -> Iterator[None]:
    """No gradient."""
    with torch.no_grad():
        yield


def follow(policy: Policy, state: FixedState, sequences: list[list[int]], steps: int) -> None:
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
    sequences = [list(prompt) for prompt in ragged_prompts()]
    follow(policy, FixedState(policy.prefill(sequences), range(12), 8), sequences, 8)


@pytest.mark.parametrize("rows", [[0, 2, 3, 11], [11], [1], [11, 3, 3]])
def test_rows_go_on_in_other_buffers(policy: Policy, rows: list[int]) -> None:
    policy.eval()
    sequences = [list(prompt) for prompt in ragged_prompts()]
    state = FixedState(policy.prefill(sequences), range(12), 20)  # room that stays unused
    follow(policy, state, sequences, 3)
    sequences = [list(sequences[row]) for row in rows]
    state = FixedState(state, rows, 4)
    assert state.length == max(map(len, sequences))  # no column is padding in all rows
    follow(policy, state, sequences, 4)


def test_equal_lengths_need_no_padding_mask(llama: Policy) -> None:
    llama.eval()
    sequences = [[2, token, 12, 13, 14, 15] for token in range(20, 25)]
    state = FixedState(llama.prefill(sequences), range(5), 6)
    assert state.attention_mask is None
    follow(llama, state, sequences, 6)


def test_nothing_moves(llama: Policy) -> None:
    def tensors() -> list[torch.Tensor]:
        buffers = [each for layer in state.layers for each in (layer.key_buffer, layer.value_buffer)]
        assert state.attention_mask is not None
        return [*buffers, state.place, state.positions, state.attention_mask]

    llama.eval()
    state = FixedState(llama.prefill([[2, 11, 12], [2]]), [0, 1], 5)
    before = [(each.data_ptr(), each.shape) for each in tensors()]
    for token in range(5):
        llama.advance(state, torch.tensor([11 + token, 12 + token]))
    assert [(each.data_ptr(), each.shape) for each in tensors()] == before
    assert state.length == 8


def test_the_state_before_loses_its_keys(llama: Policy) -> None:
    grown = llama.prefill([[2, 11, 12]])
    FixedState(grown, [0], 1)
    assert not any(hasattr(layer, name) for layer in grown.layers for name in ("key_buffer", "value_buffer", "keys"))
