"""A tiny random model of Qwen2.5-VL's kind, with its processor, and rows with pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.conftest import make_byte_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's own, without its default system turn and numbers of images."""

MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
PATCH = 4
"""Pixels on a side of a patch, of which four together are a token."""

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (120, 120, 120)}


def make_folder(folder: Path, kind: str = "qwen2_5_vl", wide: int = 1, side: int = 8, **changes: Any) -> Path:
    """Write a tiny model with its tokenizer and its processor, as one saved by transformers.

    Args:
        folder: Where to.
        kind: Its kind.
        wide: How many times as wide as the tiniest it is.
        side: Patches on a side of the largest square image.
        changes: Further settings of its config.
    """
    tokenizer = make_byte_tokenizer(TEMPLATE, MARKS, eos_token="<|im_end|>", pad_token="<|im_end|>")
    ids: dict[str, Any] = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in MARKS}
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2 * wide, "patch_size": PATCH}
    if kind == "qwen2_5_vl":
        vision |= {"hidden_size": 16 * wide, "intermediate_size": 24 * wide, "out_hidden_size": 32 * wide}
        vision["window_size"] = 4 * PATCH
        vision["fullatt_block_indexes"] = [1]
    else:
        vision |= {"embed_dim": 16 * wide, "hidden_size": 32 * wide, "mlp_ratio": 2}
    config = {"qwen2_5_vl": Qwen2_5_VLConfig, "qwen2_vl": Qwen2VLConfig}[kind](
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32 * wide,
            "intermediate_size": 48 * wide,
            "num_hidden_layers": 2,
            "num_attention_heads": 4 * wide,
            "num_key_value_heads": 2 * wide,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            "initializer_range": 0.5,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "tie_word_embeddings": True,
        },
        vision_config={**vision, "initializer_range": 0.5},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        **changes,
    )
    torch.manual_seed(3)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": (side * PATCH) ** 2}
    Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, size=size).save_pretrained(folder)
    return folder


def picture(path: Path, width: int, height: int, color: str = "red") -> Path:
    """Write an image with some structure: a square of a color on noise."""
    image = Image.effect_noise((width, height), 60).convert("RGB")
    image.paste(COLORS[color], (width // 4, height // 4, width // 2, height // 2))
    image.save(path)
    return path


def asked(*sources: object, text: str = "which color?", before: str = "") -> list[dict[str, Any]]:
    """A user turn with images in front of its text."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": before}] if before else []
    parts += [{"type": "image", "image": each if isinstance(each, Image.Image) else str(each)} for each in sources]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def write_rows(folder: Path, count: int = 8, sizes: Sequence[tuple[int, int]] = ((20, 31), (33, 17), (8, 40))) -> Path:
    """Write a file of rows whose prompts have images beside the file, by relative path."""
    (folder / "pictures").mkdir(exist_ok=True)
    rows = []
    for index in range(count):
        color = list(COLORS)[index % len(COLORS)]
        name = f"pictures/{index}.png"
        picture(folder / name, *sizes[index % len(sizes)], color)
        rows.append({"question": f"color {index}?", "images": [name], "answer": f"it is {color}"})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
