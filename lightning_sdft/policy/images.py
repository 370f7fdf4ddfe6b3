"""Images in prompts: how many tokens each is, and what a vision-language model reads for them.

Models of Qwen2-VL's kind [1] give an image a number of tokens that depends on its size, and count positions in three
dimensions: text goes on in all three at once, and the tokens of an image are counted by row and column.

[1] Wang et al., Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution, 2024,
    https://arxiv.org/abs/2409.12191; positions in section 2.1

Letters: B sequences, L tokens of the longest of them, P patches of all images, C numbers of a patch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils.hub import cached_file

from lightning_sdft.errors import DataError, PolicyError, Refusal
from lightning_sdft.records import Image, Prompt, images_in

__all__ = ["KINDS", "TOWER", "ImageReader", "check_image", "has_processor", "load_image_reader"]

KINDS = ("qwen2_vl", "qwen2_5_vl")
"""Kinds of models whose images are read; others are refused, or read as language models where they can be."""

TOWER = r"(.*\.)?visual\..*"
"""The layers that read images, by their names; adapters are in the layers that read text."""

FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""What a processor consists of beside its tokenizer, which has the chat template, as far as a model has it."""


class ImageReader:
    """Turns prompts with images into what a vision-language model reads.

    Args:
        processor: The model's Hugging Face image processor, which cuts images into patches.
        tokens: Ids of the tokens that stand for parts of images and of videos.
        files: The files of the model's processor.
    """

    def __init__(self, processor: Any, tokens: tuple[int, int], files: Sequence[Path]) -> None:
        self.processor = processor
        self.tokens = tokens
        self.token, _ = tokens
        self.files = files
        self.merge: int = processor.merge_size

    def expanded(self, ids: Sequence[int], messages: Sequence[Any]) -> list[int]:
        """Token ids of a conversation, in which the template has written one token for each image.

        Args:
            ids: The token ids.
            messages: The conversation.

        Returns:
            The token ids with as many tokens for each image as the model reads; a :class:`Prompt` if there are any.

        Raises:
            DataError: If an image cannot be read, or the template has not written a token for each.
        """
        sources = images_in(messages)
        if ids.count(self.token) != len(sources):
            raise DataError(
                f"the chat template writes {ids.count(self.token)} image tokens for {len(sources)} images; use the "
                "model's own template, which writes one for each part of the kind image"
            )
        images = [Image(source, self.token_count(source)) for source in sources]
        if not images:
            return list(ids)
        waiting = iter(images)
        tokens = ([token] * (next(waiting).tokens if token == self.token else 1) for token in ids)
        return Prompt([each for several in tokens for each in several], images)

    def token_count(self, source: Any) -> int:
        """Number of tokens of an image, of which no more than the size is read."""
        with opened(source) as image, _naming(source):
            # Turning it upright may exchange its sides, which does not change their product.
            return int(self.processor.get_number_of_image_patches(*image.size)) // self.merge**2

    def inputs(self, prompts: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], left: bool) -> dict[str, Tensor]:
        """What the model reads beside token ids, on the CPU.

        Args:
            prompts: The prompts of the sequences, which have the images.
            rows: The token ids of the sequences, which begin with the prompts.
            left: Whether shorter sequences are padded on the left; otherwise on the right.

        Returns:
            ``position_ids`` `(3, B, L)`, and where there are images, ``pixel_values`` `(P, C)` with their grids
            ``image_grid_thw`` `(images, 3)`.

        Raises:
            DataError: If an image cannot be read, or is not the one that its tokens were counted for.
        """
        read: list[Mapping[str, Tensor]] = []
        width = max(map(len, rows))
        positions = torch.zeros(3, len(rows), width, dtype=torch.long)
        for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            own = [self._read(image) for image in getattr(prompt, "images", ())]
            start = width - len(row) if left else 0
            positions[:, index, start : start + len(row)] = self.positions(
                row, [each["image_grid_thw"] for each in own]
            )
            read += own
        names = ("pixel_values", "image_grid_thw") if read else ()
        return {"position_ids": positions, **{name: torch.cat([each[name] for each in read]) for name in names}}

    def positions(self, tokens: Sequence[int], grids: Sequence[Tensor]) -> Tensor:
        """Positions `(3, L)` of the tokens of a sequence [1].

        Args:
            tokens: The sequence.
            grids: Patches of each image in time, rows and columns, `(1, 3)`.

        Raises:
            PolicyError: If the sequence has tokens of other images than those.
        """
        parts, place, begin = [], 0, 0
        for grid in grids:
            frames, height, width = grid[0].tolist()
            shape = [torch.arange(size) for size in (frames, height // self.merge, width // self.merge)]
            first = begin + tokens[begin:].index(self.token)
            parts.append(torch.arange(place, place + first - begin).expand(3, -1))
            place += first - begin
            parts.append(place + torch.stack(torch.meshgrid(*shape, indexing="ij")).reshape(3, -1))
            place += max(map(len, shape[1:]))
            begin = first + parts[-1].shape[1]
        if self.token in tokens[begin:]:
            raise PolicyError(
                f"a sequence has tokens of more than its {len(grids)} images, which a model cannot read; keep prompts "
                "as the tokenizer encodes them"
            )
        parts.append(torch.arange(place, place + len(tokens) - begin).expand(3, -1))
        return torch.cat(parts, dim=1)

    def save(self, folder: str | Path) -> None:
        """Write the files of the processor, beside which stand those of model and tokenizer."""
        for file in self.files:
            shutil.copyfile(file, Path(folder, file.name))

    def sample(self, config: Any, tokens: Sequence[int]) -> dict[str, Tensor]:
        """Inputs of the model with a small image of noise behind the tokens given, to compare models by.

        Args:
            config: The model's config.
            tokens: Token ids of text.
        """
        side, vision = 2 * self.merge, config.vision_config
        generator = torch.Generator().manual_seed(0)
        numbers = self.processor.temporal_patch_size * self.processor.patch_size**2 * vision.in_channels
        row = [*tokens, config.vision_start_token_id, *[self.token] * 4, config.vision_end_token_id]
        grid = torch.tensor([[1, side, side]])
        return {
            "input_ids": torch.tensor([row]),
            "position_ids": self.positions(row, [grid])[:, None],
            "pixel_values": torch.randn(side**2, numbers, generator=generator, device="cpu"),
            "image_grid_thw": grid,
        }

    def _read(self, image: Image) -> Mapping[str, Tensor]:
        """The patches of an image, and their grid."""
        from PIL import ImageOps

        with opened(image.source) as file, _naming(image.source):
            pixels = ImageOps.exif_transpose(file).convert("RGB")
            read: Mapping[str, Tensor] = self.processor(images=[pixels], return_tensors="pt")
        found = int(read["image_grid_thw"].prod()) // self.merge**2
        if found != image.tokens:
            raise DataError(
                f"{image.source}: the image has {found} tokens, and had {image.tokens} when its prompt was encoded; do "
                "not change images during a run"
            )
        return read


def load_image_reader(source: Mapping[str, Any], trust_remote_code: bool) -> ImageReader | None:
    """The reader of the images that a model sees; ``None`` if it is none of :data:`KINDS`.

    Args:
        source: Arguments for ``from_pretrained`` that say where the model is.
        trust_remote_code: See :meth:`lightning_sdft.policy.Policy.load`.

    Raises:
        PolicyError: If Pillow is not installed, or the model has no image processor.
    """
    if "gguf_file" in source:
        return None
    try:
        content, _ = PreTrainedConfig.get_config_dict(**source)
    except OSError:  # whoever loads the model says so
        return None
    if content.get("model_type") not in KINDS:
        return None
    config = AutoConfig.from_pretrained(**source, trust_remote_code=trust_remote_code)
    name = source["pretrained_model_name_or_path"]
    check_pillow(f"{name!r} reads images, which")
    found = [_file(source, each) for each in FILES]
    files = [each for each in found if each is not None]
    if not any(_describes_images(each) for each in files):
        raise PolicyError(f"{name!r} reads images and has no preprocessor_config.json; copy it beside the weights")
    # Not imported by name: transformers loads its code for images when it is first asked for.
    images = transformers.AutoImageProcessor
    processor = images.from_pretrained(**source, backend="pil", trust_remote_code=trust_remote_code)
    return ImageReader(processor, (config.image_token_id, config.video_token_id), files)


def has_processor(folder: str | Path) -> bool:
    """Whether a folder has the processor of a model that reads images."""
    return any(Path(folder, name).exists() for name in FILES)


def check_pillow(what: str) -> None:
    """Refuse to go on without Pillow.

    Args:
        what: What needs it, as the subject of the error.
    """
    if find_spec("PIL") is None:
        raise PolicyError(f"{what} needs Pillow: pip install 'lightning-sdft[vision]'")


def check_image(source: Any) -> None:
    """Read an image once, and forget it. Of a JPEG file no more is computed than an eighth of its size.

    Raises:
        DataError: If it is missing or broken.
    """
    check_pillow("an image in a prompt")
    with opened(source) as image, _naming(source):
        if isinstance(source, str):
            image.draft("RGB", (1, 1))
        image.load()


@contextmanager
def opened(source: Any) -> Iterator[Any]:
    """An image whose pixels have not been read; one that was given as a PIL image stays open.

    Raises:
        DataError: If there is no such file, or it is no image.
    """
    if not isinstance(source, str):
        yield source
        return
    from PIL import Image as PillowImage

    with _naming(source):
        if not Path(source).is_file():
            raise DataError(f"there is no image {source!r}; correct the path, which is relative to the file of the row")
        image = PillowImage.open(source)
    with image:
        yield image


@contextmanager
def _naming(source: Any) -> Iterator[None]:
    """Turn what Pillow and transformers say of an image into an error that names the file."""
    try:
        yield
    except (Refusal, MemoryError):
        raise
    except Exception as error:  # Pillow has many
        raise DataError(
            f"the image {str(source)!r} cannot be read ({error}); replace it, or leave the row out"
        ) from error


def _file(source: Mapping[str, Any], name: str) -> Path | None:
    options = {"local_files_only": source.get("local_files_only", False)}
    try:
        found = cached_file(source["pretrained_model_name_or_path"], name, **options)
    except OSError:
        return None
    return None if found is None else Path(found)


def _describes_images(file: Path) -> bool:
    content = json.loads(file.read_text(encoding="utf-8"))
    return "image_processor_type" in content or "image_processor" in content
