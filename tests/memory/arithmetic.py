"""The weights of the tiny Llama by the shapes of its architecture, beside the code that counts them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Llama"]


@dataclass(frozen=True)
class Llama:
    """Numbers of parameters.

    Args:
        blocks: How many blocks there are.
        block: Those of a block: four projections, three matrices of the perceptron and two norms.
        embedding: Those in no block: the embedding, the last norm, and a head that is not the embedding.
        head: Those of the head.
        linear: Inputs and outputs of the linear layers of a block.
    """

    blocks: int
    block: int
    embedding: int
    head: int
    linear: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, folder: Path) -> Llama:
        config = json.loads((folder / "config.json").read_text())
        width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        head_width = width // config["num_attention_heads"]
        grouped = head_width * config["num_key_value_heads"]
        attention = (width, width), (width, grouped), (width, grouped), (width, width)
        linear = (*attention, (width, inner), (width, inner), (inner, width))
        head = vocabulary * width
        embedding = head + width + (0 if config["tie_word_embeddings"] else head)
        blocks = config["num_hidden_layers"]
        return cls(blocks, sum(a * b for a, b in linear) + 2 * width, embedding, head, linear)

    @property
    def all(self) -> int:
        return self.blocks * self.block + self.embedding

    @property
    def tensors(self) -> int:
        """Of an untied model: nine of each block, embedding, norm and head."""
        return 9 * self.blocks + 3

    def adapter(self, rank: int) -> int:
        """Parameters of an adapter of all linear layers but the head."""
        return self.blocks * sum(rank * (inputs + outputs) for inputs, outputs in self.linear)
