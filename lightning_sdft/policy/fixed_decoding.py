"""The state of a batch of sequences during decoding, in buffers that stay where they are.

A CUDA graph repeats its kernels on fixed addresses and with fixed shapes. So here keys and values have room for all
tokens to come, and what changes from token to token is itself a tensor on the device.

Letters: B sequences, H heads of keys and values, L positions in the cache, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from lightning_sdft.policy.decoding import DecodingState, GrowingLayer

__all__ = ["FixedState"]


class FixedState:
    """Sequences of a :class:`DecodingState`, or of another fixed state, in buffers of a fixed size.

    Args:
        state: The state to take them from, which loses its keys and values.
        rows: Indices of the sequences to take.
        room: Number of tokens that are going to be appended, at most.
    """

    logits: Tensor
    """Logits of the next token of each sequence, `(B, V)`."""
    model: Any
    cache_argument: str
    padding: list[int]
    layers: list[FixedLayer]

    def __init__(self, state: DecodingState | FixedState, rows: Sequence[int], room: int) -> None:
        self.model, self.cache_argument = state.model, state.cache_argument
        start = min(state.padding[row] for row in rows)
        self.padding = [state.padding[row] - start for row in rows]
        taken, length = slice(start, state.length), state.length - start
        width = length + room
        device = state.logits.device
        index, starts = torch.tensor(rows, device=device), torch.tensor(self.padding, device=device)[:, None]
        self.place = torch.tensor([length], device=device)
        self.positions = self.place - starts
        # Positions that are not filled yet count as tokens here: they come later, so the model masks them anyway.
        self.attention_mask = (torch.arange(width, device=device) >= starts).long() if any(self.padding) else None
        self.logits = state.logits[index]
        self.layers = [FixedLayer(layer, index, taken, width, self.place) for layer in state.layers]
        self.cache = DynamicCache(config=self.model.config)
        self.cache.layers = list(self.layers)

    @property
    def length(self) -> int:
        """Number of positions that are filled, including padding; waits for the device."""
        return int(self.place.item())

    def read(self, tokens: Tensor) -> Tensor:
        """Run the model on the next tokens `(B, 1)`, and return the last hidden state of each sequence."""
        output = self.model.base_model(
            input_ids=tokens,
            attention_mask=self.attention_mask,
            position_ids=self.positions,
            use_cache=True,
            **{self.cache_argument: self.cache},
        )
        self.place.add_(1)
        self.positions.add_(1)
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden


class FixedLayer(DynamicLayer):
    """Cache of one layer, with room for all tokens to come.

    Args:
        layer: The layer to take keys and values from, which loses them.
        rows: Which of its rows to take, `(B,)`.
        taken: Which of its positions to take.
        width: Number of positions to have room for, L.
        place: Position of the next token, `(1,)`; whoever owns it moves it on after each token.
    """

    is_compileable = True
    """Tells transformers never to ask whether a mask is needed, for it would wait for the device."""
    key_buffer: Tensor
    value_buffer: Tensor

    def __init__(self, layer: GrowingLayer | FixedLayer, rows: Tensor, taken: slice, width: int, place: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.place = place
        self.key_buffer = _moved(layer.key_buffer, rows, taken, width)
        self.value_buffer = _moved(layer.value_buffer, rows, taken, width)
        self.keys, self.values = self.key_buffer, self.value_buffer
        self.device, self.is_initialized = self.keys.device, True
        del layer.key_buffer, layer.value_buffer, layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values `(B, H, 1, D)`, and return the buffers, `(B, H, L, D)`."""
        self.key_buffer.index_copy_(2, self.place, key_states)
        self.value_buffer.index_copy_(2, self.place, value_states)
        return self.key_buffer, self.value_buffer

    def get_seq_length(self) -> Any:
        """Number of positions that are filled, as a tensor: transformers computes the mask from it."""
        return self.place[0]

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        """Number of positions that the mask is about, and the first of them."""
        return self.key_buffer.shape[2], 0


def _moved(buffer: Tensor, rows: Tensor, taken: slice, width: int) -> Tensor:
    """Copy rows and positions of a buffer to one of another width."""
    # Attention multiplies masked positions by 0, so they have to be finite.
    room = buffer.new_zeros(len(rows), buffer.shape[1], width, buffer.shape[3])
    room[:, :, : taken.stop - taken.start] = buffer[:, :, taken].index_select(0, rows)
    return room
