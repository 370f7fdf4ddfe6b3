"""The state of a batch of sequences during decoding: a key-value cache, and the logits of the next tokens.

Letters: B sequences, H heads of keys and values, L positions in the cache, D width of a head, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy.common_prefix import common_prefix

__all__ = ["DecodingState", "buckets", "cache_argument", "call_tokens", "full_cache", "shared_prefix"]

Layer = TypeVar("Layer", bound=DynamicLayer)

BUCKET_TOKENS = 8192
"""Largest number of tokens in a bucket of prompts: enough to keep a device busy, few enough to fit in memory."""


class DecodingState:
    """A batch of unfinished sequences, padded on the left so that all end at the same position.

    Args:
        model: The model that generates.
        padding: Number of padding tokens before each sequence.
        length: Length of all sequences, including padding.
        prefix: State of a prefix that all sequences share, if it has been computed already. A sequence with n padding
            tokens leaves out the last n tokens of the prefix, which are then read again with the rest of the prompt.
        places: Positions of the tokens, for a model that counts them in three dimensions: `(3, B, L)`.

    Raises:
        PolicyError: If the model has layers that keep a state other than keys and values.
    """

    logits: Tensor
    """Logits of the next token of each sequence, `(B, V)`; set once the prompts have been read."""

    def __init__(
        self,
        model: Any,
        padding: list[int],
        length: int,
        prefix: DecodingState | None = None,
        places: Tensor | None = None,
    ) -> None:
        self.model = model
        self.padding = padding
        self.cache, self.layers = full_cache(model, GrowingLayer)
        self.cache_argument = cache_argument(model)
        starts = torch.tensor(padding, device=model.device)[:, None]
        columns = torch.arange(length, device=model.device)
        self.attention_mask: Tensor | None = (columns >= starts).long()
        self.counts_in_space = places is not None
        self.positions: Tensor | None = (columns - starts).clamp(min=0) if places is None else places
        self._drop_needless_mask()
        if prefix is not None:
            self._begin_with(prefix)

    @property
    def length(self) -> int:
        """Number of positions in the cache, including padding."""
        return self.cache.get_seq_length()

    def read(self, tokens: Tensor, **images: Tensor) -> Tensor:
        """Run the model on the next tokens `(B, T)`, and return the last hidden state of each sequence.

        Args:
            tokens: The tokens.
            images: The images among them, by the names of the model's arguments.
        """
        output = self.model.base_model(
            input_ids=tokens,
            attention_mask=self.attention_mask,
            position_ids=self.positions,
            use_cache=True,
            **{self.cache_argument: self.cache},
            **images,
        )
        if self.attention_mask is not None:
            self.attention_mask = pad(self.attention_mask, (0, 1), value=1)
        if self.positions is not None:
            self.positions = self.positions[..., -1:] + 1
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Keep some of the sequences, and drop the others.

        Args:
            rows: Indices of the sequences to keep.

        Returns:
            The same indices in the new order of the sequences, chosen so that as few as possible move.
        """
        moving = (row for row in rows if row >= len(rows))
        staying = set(rows)
        order = [row if row in staying else next(moving) for row in range(len(rows))]
        start = min(self.padding[row] for row in order)
        self.padding = [self.padding[row] - start for row in order]
        self.logits = self.logits[order]
        for layer in self.layers:
            layer.keep(order, start)
        if self.positions is not None:
            self.positions = self.positions[..., order, :]
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[order, start:]
            self._drop_needless_mask()
        return order

    @classmethod
    def merged(cls, states: Sequence[DecodingState], rows: Sequence[int], keep: bool = False) -> DecodingState:
        """Merge the sequences of several states into one state.

        Args:
            states: The states.
            rows: Index of each sequence among those of all states; a sequence may occur more than once.
            keep: Whether the states are needed once more; otherwise they lose their keys and values.

        Raises:
            PolicyError: If the model has not written to the cache.
        """
        lengths = [state.length for state in states]
        length = max(lengths)
        padding = [count + length - own for state, own in zip(states, lengths, strict=True) for count in state.padding]
        index = torch.tensor(rows, device=states[0].model.device)
        own = [state.positions for state in states if state.counts_in_space and state.positions is not None]
        places = torch.cat(own, dim=1)[:, index] if own else None
        whole = cls(states[0].model, [padding[row] for row in rows], length + 1, places=places)
        if whole.positions is not None:
            whole.positions = whole.positions[..., -1:]
        whole.logits = torch.cat([state.logits for state in states])[index]
        for number, (layer, *parts) in enumerate(zip(whole.layers, *(state.layers for state in states), strict=True)):
            if not all(part.is_initialized for part in parts):
                raise _other_memory(whole.model, f"something else than the cache (layer {number})")
            layer.take(parts, index, keep)
        return whole

    def _begin_with(self, prefix: DecodingState) -> None:
        for layer, read in zip(self.layers, prefix.layers, strict=True):
            if not read.is_initialized:
                raise _other_memory(self.model, "something else than the cache")
            layer.begin_with(read, self.padding)
        if self.positions is not None:
            self.positions = self.positions[..., prefix.length :]

    def _drop_needless_mask(self) -> None:
        """Drop the attention mask where nothing is padded: attention without a mask is faster."""
        if not any(self.padding):
            self.attention_mask = None
            self.positions = self.positions if self.counts_in_space else None


class GrowingLayer(DynamicLayer):
    """Cache of one layer: keys and values grow in place in buffers with spare room at the end.

    It keeps all positions, even in a layer with a sliding window; there the model masks those outside the window.
    """

    key_buffer: Tensor
    value_buffer: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values `(B, H, new, D)`, and return all of them, `(B, H, L + new, D)`."""
        new = key_states.shape[2]
        if not self.is_initialized:
            return self._fill(key_states, value_states, new)
        if self.length + new > self.key_buffer.shape[2]:
            room = (0, 0, 0, new + _spare(self.length))
            self.key_buffer, self.value_buffer = pad(self.key_buffer, room), pad(self.value_buffer, room)
        self.key_buffer.narrow(2, self.length, new).copy_(key_states)
        self.value_buffer.narrow(2, self.length, new).copy_(value_states)
        return self._fill(self.key_buffer, self.value_buffer, self.length + new)

    def begin_with(self, prefix: GrowingLayer, padding: Sequence[int]) -> None:
        """Start each row with a copy of the single row of another layer, shifted right by the row's padding."""
        read_keys, read_values = prefix.key_buffer, prefix.value_buffer
        keys, values = (
            read.new_zeros(len(padding), read.shape[1], prefix.length, read.shape[3])
            for read in (read_keys, read_values)
        )
        for row, shift in enumerate(padding):
            keys[row, :, shift:] = read_keys[0, :, : max(prefix.length - shift, 0)]
            values[row, :, shift:] = read_values[0, :, : max(prefix.length - shift, 0)]
        self._fill(keys, values, prefix.length)

    def keep(self, rows: Sequence[int], start: int) -> None:
        """Keep some of the rows, and of those the positions from `start` on. Rows that do not move are not copied."""
        targets = [target for target, source in enumerate(rows) if target != source]
        if targets:
            sources = [rows[target] for target in targets]
            for buffer in (self.key_buffer, self.value_buffer):
                filled = buffer.narrow(2, 0, self.length)
                filled[targets] = filled[sources]
        kept = slice(len(rows)), slice(None), slice(start, None)
        self._fill(self.key_buffer[kept], self.value_buffer[kept], self.length - start)

    def take(self, parts: Sequence[GrowingLayer], rows: Tensor, keep: bool) -> None:
        """Fill this layer with rows of several others, by index `(B,)` among all their rows, aligned at the end.

        The others lose their buffers, unless they are to keep them.
        """
        length = max(part.length for part in parts)

        def taken(buffers: Sequence[Tensor]) -> Tensor:
            # Attention multiplies masked positions by 0, so the padding has to be finite.
            aligned = [pad(buffer, (0, 0, length - buffer.shape[2], 0)) for buffer in buffers if len(buffers) > 1]
            states = torch.cat(aligned or list(buffers))
            room = states.new_empty(len(rows), states.shape[1], length + _spare(length), states.shape[3])
            room.narrow(2, 0, length).copy_(states.index_select(0, rows))
            return room

        keys = [part.key_buffer.narrow(2, 0, part.length) for part in parts]
        values = [part.value_buffer.narrow(2, 0, part.length) for part in parts]
        self._fill(taken(keys), taken(values), length)
        for part in parts if not keep else ():
            del part.key_buffer, part.value_buffer, part.keys, part.values

    def _fill(self, key_buffer: Tensor, value_buffer: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Set the buffers, and the attributes that transformers expects of a layer after an update."""
        self.key_buffer, self.value_buffer, self.length = key_buffer, value_buffer, length
        keys, values = key_buffer.narrow(2, 0, length), value_buffer.narrow(2, 0, length)
        self.keys, self.values = keys, values
        self.device, self.is_initialized = keys.device, True
        return keys, values


def full_cache(model: Any, kind: Callable[[], Layer]) -> tuple[DynamicCache, list[Layer]]:
    """A cache that has a layer of this kind for each of the model's, and these layers.

    Raises:
        PolicyError: If the model has layers that keep a state other than keys and values.
    """
    cache = DynamicCache(config=model.config)
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise _other_memory(model, f"a {type(layer).__name__}")
    layers = [kind() for _ in cache.layers]
    cache.layers = list(layers)
    return cache, layers


def cache_argument(model: Any) -> str:
    """The argument by which a model takes a cache: transformers 5.24 names it anew, and warns of the old name."""
    return "cache" if "cache" in inspect.signature(model.base_model.forward).parameters else "past_key_values"


def call_tokens(model: Any) -> int:
    """Number of tokens whose forward pass costs as much as the fixed overhead of one call.

    With a large model on a CPU, the overhead is reading the weights. Otherwise it is the call itself.
    """
    return 32 if model.device.type == "cpu" and model.num_parameters() > 10_000_000 else 256


def shared_prefix(prompts: Sequence[tuple[int, ...]], worth: int) -> list[int]:
    """Longest common prefix, or nothing if reading it once saves at most `worth` tokens."""
    prefix = common_prefix(prompts)
    return prefix if len(prefix) * (len(prompts) - 1) > worth else []


def buckets(prompts: Sequence[Sequence[int]], worth: int) -> Iterator[list[Sequence[int]]]:
    """Split prompts, sorted longest first, into batches with at most `worth` padding tokens each."""
    bucket: list[Sequence[int]] = []
    padding = 0
    for prompt in prompts:
        width = len(bucket[0]) if bucket else len(prompt)
        padding += width - len(prompt)
        if bucket and (padding > worth or width * (len(bucket) + 1) > BUCKET_TOKENS):
            yield bucket
            bucket, padding = [], 0
        bucket.append(prompt)
    yield bucket


def _other_memory(model: Any, memory: str) -> PolicyError:
    return PolicyError(
        f"{type(model).__name__} remembers the tokens it has read in {memory}. This package cannot remove "
        "finished sequences from that; use a model that has attention in every layer"
    )


def _spare(length: int) -> int:
    """Spare positions for a cache of that length. Few, because attention is slow on tensors with large gaps."""
    return 4 + length // 16
