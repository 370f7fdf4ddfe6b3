"""How sequences are laid out for one forward pass: as rows, packed in one row, or as trees.

A tree is a row in which each distinct beginning of its sequences is computed once. Its nodes are tokens. A node attends
to its ancestors and itself, and its position is its depth, so that it gets the hidden state that it would get if its
sequence had a row of its own. For several answers to a prompt the prompt is read once, and for several prompts about an
article the article.

Letters: B rows, L tokens of a row, N completion tokens of all sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_sdft.policy.common_prefix import common_length
from lightning_sdft.policy.images import ImageReader
from lightning_sdft.policy.tree_mask import additive_mask, block_mask
from lightning_sdft.records import TokenSequence

__all__ = ["Layout", "cut_into_trees", "in_one_row", "in_rows", "in_trees", "longest_row", "longest_tree"]

WORTH = 0.9
"""Trees are read if they cost at most this share of rows."""

SPARED = 128
"""And if they spare the cost of this many tokens, which a mask and the search for trees take."""

MULTIPLE = 8
"""Trees are padded to a multiple of this, without which attention on a GPU copies the mask in each layer."""

WINDOWS = (
    "sliding_window",
    "window_size",
    "attention_window",
    "attention_window_size",
    "local_attention",
    "local_attention_window",
    "attention_chunk_size",
)
"""Names under which configs have the number of tokens that a layer looks back."""


@dataclass(frozen=True)
class Layout:
    """The inputs of one forward pass.

    Args:
        inputs: Arguments of the model by name.
        predicting: Where in its output `(B, L, D)` the states are that predict completion tokens: a mask `(B, L)`, or
            the rows and the columns, `(N,)` each, in the order of the sequences.
        last: The last node below each node of a tree, `(B, L)`, if the rows are trees.
        before: Number of tokens before them that have been read already.
    """

    inputs: dict[str, Any]
    predicting: Tensor | tuple[Tensor, Tensor]
    last: Tensor | None = None
    before: int = 0

    def arguments(self, config: Any, dtype: torch.dtype) -> dict[str, Any]:
        """The inputs, with the mask of trees that the attention of a model takes.

        Args:
            config: The model's config.
            dtype: The dtype in which the model computes.
        """
        if self.last is None:
            return self.inputs
        if config.get_text_config()._attn_implementation == "flex_attention":
            return self.inputs | {"attention_mask": block_mask(self.last, self.before)}
        return self.inputs | {"attention_mask": additive_mask(self.last, self.before, dtype)}


def in_rows(
    sequences: Sequence[TokenSequence], filler: int, device: torch.device, images: ImageReader | None = None
) -> Layout:
    """One row for each sequence, filled with ``filler`` on the right, with the images that ``images`` reads."""
    rows, predicting = _rows(sequences)
    # Padding on the right needs no mask, because no token attends to later ones; attention is faster without.
    inputs = {"input_ids": pad_sequence(rows, batch_first=True, padding_value=filler)}
    if images is not None:
        inputs |= images.inputs([each.prompt for each in sequences], [row.tolist() for row in rows], left=False)
    inputs = {name: each.to(device) for name, each in inputs.items()}
    return Layout(inputs, pad_sequence(predicting, batch_first=True).to(device))


def in_one_row(sequences: Sequence[TokenSequence], device: torch.device) -> Layout:
    """All sequences one behind the other in a row, without padding."""
    rows, predicting = _rows(sequences)
    restarting = torch.cat([torch.arange(len(row)) for row in rows])
    # Without a mask, transformers starts a new sequence wherever a position does not follow the one before.
    inputs = {"input_ids": torch.cat(rows)[None].to(device), "position_ids": restarting[None].to(device)}
    return Layout(inputs, torch.cat(predicting)[None].to(device))


def in_trees(
    sequences: Sequence[TokenSequence], trees: Sequence[Sequence[int]], filler: int, device: torch.device
) -> Layout:
    """One row for each tree.

    Args:
        sequences: The sequences.
        trees: Indices of the sequences of each tree; see :func:`cut_into_trees`.
        filler: The id that fills trees of different sizes.
        device: The device of the model.
    """
    grown = [_Tree(sorted((_read(sequences[index]), index) for index in tree)) for tree in trees]
    width = -(-max(len(tree.tokens) for tree in grown) // MULTIPLE) * MULTIPLE
    places: list[tuple[list[int], list[int]]] = [([], []) for _ in sequences]
    ids, depths = torch.full((len(grown), width), filler), torch.zeros(len(grown), width, dtype=torch.long)
    last = torch.arange(width).repeat(len(grown), 1)  # padding attends to itself: softmax over nothing is not a number
    for row, tree in enumerate(grown):
        for index, path in tree.paths.items():
            columns = path[len(sequences[index].prompt) - 1 :]
            places[index] = [row] * len(columns), columns
        for rows, nodes in ((ids, tree.tokens), (depths, tree.depths), (last, tree.last)):
            rows[row, : len(nodes)] = torch.tensor(nodes)
    inputs = {"input_ids": ids.to(device), "position_ids": depths.to(device)}
    own, states = (torch.tensor([each for place in places for each in place[part]]) for part in (0, 1))
    return Layout(inputs, (own.to(device), states.to(device)), last.to(device))


def cut_into_trees(sequences: Sequence[TokenSequence], pair: float, limit: int | None) -> list[list[int]] | None:
    """Choose which sequences to read together in a tree, so that reading costs least.

    A row of n tokens costs n for its matrix products, and for its attention ``pair`` times the pairs of tokens: `n^2`
    in a tree, where masked pairs are computed too, and half of them in a causal row. So siblings with long completions
    are spread over several trees. Sequences of a tree begin alike by at least so many tokens, and are at most so many;
    both are tried.

    Args:
        sequences: The sequences.
        pair: Cost of a pair of tokens, as a share of that of a token.
        limit: Largest number of tokens in a tree.

    Returns:
        Indices of the sequences of each tree; ``None`` if rows cost about the same.
    """
    order = sorted(range(len(sequences)), key=lambda index: _read(sequences[index]))
    lengths = [len(sequences[index]) - 1 for index in order]
    shared = [0, *(common_length(*map(_read, (sequences[one], sequences[other]))) for one, other in pairwise(order))]
    longest = max(map(len, sequences))
    rows = len(order) * (longest + pair * longest**2 / 2)
    best, least = None, min(WORTH * rows, rows - SPARED)
    for alike in sorted(set(shared)):
        starts = [place for place, count in enumerate(shared) if count < alike or not place]
        for most in _halves(len(order)):
            cut = list(_spread(starts, len(order), most))
            sizes = [sum(lengths[start:end]) - sum(shared[start + 1 : end]) for start, end in cut]
            cost = len(cut) * (max(sizes) + pair * max(sizes) ** 2)
            if cost <= least and (limit is None or max(sizes) + MULTIPLE <= limit):
                best, least = cut, cost
    return None if best is None else [order[start:end] for start, end in best]


def longest_tree(config: Any, max_tokens: int | None) -> int | None:
    """Number of tokens up to which a row has no end of a window and no limit of the model, or ``None``.

    A given mask takes the place of the one that a model makes for a layer with a window.

    Args:
        config: The config of the text model.
        max_tokens: Length of the longest sequence that the model reads.
    """
    limits = [max_tokens, *(getattr(config, name, None) for name in WINDOWS)]
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def longest_row(config: Any) -> int | None:
    """Length of the longest sequence that a model reads without regard to others, or ``None`` without a limit.

    Where LongRoPE turns to the second of its two sets of frequencies, it does so for the whole batch.

    Args:
        config: The config of the text model.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters, *(each for each in parameters.values() if isinstance(each, dict))]
    limits = [each["original_max_position_embeddings"] for each in kinds if each.get("rope_type") == "longrope"]
    limits.append(getattr(config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit is not None), default=None)


class _Tree:
    """The nodes of a tree, made from its sequences in alphabetical order.

    Attributes:
        tokens: Token id of each node.
        depths: Depth of each node.
        last: The last node below each node; itself if there is none.
        paths: The nodes of each sequence, by its index.
    """

    def __init__(self, rows: Sequence[tuple[list[int], int]]) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.last: list[int] = []
        self.paths: dict[int, list[int]] = {}
        before: list[int] = []
        path: list[int] = []
        for row, index in rows:
            above, start = path[: common_length(before, row)], len(self.tokens)
            self.tokens += row[len(above) :]
            self.depths += range(len(above), len(row))
            path = [*above, *range(start, len(self.tokens))]
            self.last += [0] * (len(self.tokens) - start)
            if start < len(self.tokens):
                for node in path:
                    self.last[node] = path[-1]
            self.paths[index] = path
            before = row


def _rows(sequences: Sequence[TokenSequence]) -> tuple[list[Tensor], list[Tensor]]:
    """The tokens of each sequence, and which of them predict tokens of its completion."""
    rows = [torch.tensor(sequence.prompt + sequence.completion) for sequence in sequences]
    positions = [torch.arange(len(row)) for row in rows]
    predicting = [
        (position >= len(sequence.prompt) - 1) & (position < len(position) - 1)
        for sequence, position in zip(sequences, positions, strict=True)
    ]
    return rows, predicting


def _read(sequence: TokenSequence) -> list[int]:
    """The tokens that predict another one: all but the last."""
    return (sequence.prompt + sequence.completion)[:-1]


def _halves(count: int) -> Iterator[int]:
    """A number, half of it, and so on down to 1."""
    while count > 1:
        yield count
        count = -(-count // 2)
    yield 1


def _spread(starts: Sequence[int], end: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut each of several runs into as few parts of about the same size as have at most so many members."""
    for start, stop in pairwise([*starts, end]):
        parts = -(-(stop - start) // most)
        marks = [start + (stop - start) * part // parts for part in range(parts + 1)]
        yield from pairwise(marks)
