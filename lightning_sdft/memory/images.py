"""Prompts with images for a rehearsal: the image tower reads as many patches as in a run, without pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_sdft.modules import CausalLMModule
from lightning_sdft.policy.images import ImageReader
from lightning_sdft.records import Image, Prompt

__all__ = ["BlankReader", "blank_images", "with_image"]

MARKS = 2
"""Tokens of text that a prompt with an image has at least: what its sequence is told apart by, and an end."""


class BlankReader(ImageReader):
    """Reads patches of images that are nowhere: no more is known of an image than its number of tokens."""

    def _read(self, image: Image) -> Mapping[str, Tensor]:
        rows = next(each for each in range(math.isqrt(image.tokens), 0, -1) if image.tokens % each == 0)
        grid = torch.tensor([[1, rows * self.merge, image.tokens // rows * self.merge]])
        numbers = 3 * self.processor.temporal_patch_size * self.processor.patch_size**2  # of three colors
        return {"pixel_values": torch.empty(image.tokens * self.merge**2, numbers), "image_grid_thw": grid}


@contextmanager
def blank_images(module: CausalLMModule) -> Iterator[None]:
    """Let a module that reads images read them with :class:`BlankReader`."""
    reader = module.tokenizer.images
    if reader is not None:
        module.tokenizer.images = BlankReader(reader.processor, reader.tokens, reader.files)
    try:
        yield
    finally:
        module.tokenizer.images = reader


def with_image(tokens: list[int], count: int, reader: ImageReader | None) -> list[int]:
    """A prompt with an image of so many tokens, if the model reads images and the prompt is as long.

    Args:
        tokens: The prompt; its first and last tokens stay.
        count: Tokens of the image.
        reader: Reads images, if the model sees any.
    """
    count = min(count, len(tokens) - MARKS)
    if reader is None or count < 1:
        return tokens
    return Prompt([tokens[0], *[reader.token] * count, *tokens[1 + count :]], [Image(f"{tokens[0]}", count)])
