from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config

from tests.conftest import make_tokenizer
from tests.modules.conftest import make_trainer, words_data, words_module

__all__ = ["make_trainer", "words_data", "words_module"]


@dataclass
class Allocated:
    """Bytes that torch's CPU allocator gave and took back while some code ran, read from its profiler."""

    peak: int = 0
    kept: int = 0
    changes: list[tuple[int, int]] = field(default_factory=list)


@contextmanager
def allocated() -> Iterator[Allocated]:
    """What tensors really take, by the word of the allocator."""
    found = Allocated()
    gc.collect()  # what an earlier measurement has left is not freed in this one, for that would count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    events = profiler.profiler.kineto_results.events()
    found.changes = sorted((each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]")
    for _, size in found.changes:
        found.kept += size
        found.peak = max(found.peak, found.kept)


def wide(folder: Path, layers: int) -> str:
    """A folder with the architecture of Qwen2.5-7B in so many of its 28 layers, and no weights."""
    Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=layers,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def seven_billion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All of them."""
    return wide(tmp_path_factory.mktemp("seven-billion"), 28)


@pytest.fixture(scope="session")
def three_billion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight of them, where it takes long to go through all."""
    return wide(tmp_path_factory.mktemp("three-billion"), 8)
