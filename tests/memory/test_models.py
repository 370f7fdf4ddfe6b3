from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from lightning_sdft.memory.hollow import Hollow
from lightning_sdft.memory.models import Weights, loaded
from lightning_sdft.modules import CausalLMModule, ReinvokeModule, SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import CopiedTeacher, LiveTeacher, TrustRegionTeacher
from tests.memory.arithmetic import Llama


@pytest.fixture
def llama_folder(family_folder: Callable[[str], Path]) -> Path:
    return family_folder("llama")


def weights(module: CausalLMModule) -> Weights:
    with Hollow(), loaded(module):
        return Weights.of(module)


def test_weights_are_those_of_the_architecture(llama_folder: Path, words_module: Callable[..., Any]) -> None:
    count = Llama.of(llama_folder)
    expected = Weights(
        student=4 * count.all,
        adapters=0,
        trained=4 * count.all,
        teacher=0,
        read=0,
        largest=4 * count.block,
        embedding=4 * count.embedding,
        heads=4 * count.head,
    )
    assert weights(words_module(SFTModule)) == expected


def test_tied_weights_are_there_once(family_folder: Callable[[str], Path]) -> None:
    module = SFTModule(str(family_folder("qwen2")), max_prompt_tokens=16, max_completion_tokens=8)
    found, count = weights(module), Llama.of(family_folder("qwen2"))
    biases = count.blocks * sum(outputs for _, outputs in count.linear[:3])  # which Llama has not
    assert found.student == 4 * (count.all + biases)
    assert (found.embedding, found.heads) == (4 * count.embedding, 4 * count.head)


@pytest.mark.parametrize(
    ("arguments", "copies"), [({}, 1), ({"teacher": LiveTeacher()}, 0), ({"teacher": TrustRegionTeacher()}, 1)]
)
def test_a_teacher_has_weights_if_it_is_a_copy(
    arguments: dict[str, Any], copies: int, llama_folder: Path, words_module: Callable[..., Any]
) -> None:
    found, count = weights(words_module(SDFTModule, **arguments)), Llama.of(llama_folder)
    assert found.teacher == copies * 4 * count.all
    assert found.read == 4 * count.all
    assert found.trained == 4 * count.all


def test_an_adapter_is_trained_alone(llama_folder: Path, words_module: Callable[..., Any]) -> None:
    count = Llama.of(llama_folder)
    alone = weights(words_module(SFTModule, lora=LoRA(rank=3)))
    assert (alone.student, alone.adapters, alone.trained) == (4 * count.all, 4 * count.adapter(3), 4 * count.adapter(3))
    taught = weights(words_module(SDFTModule, lora=LoRA(rank=3)))
    assert (taught.adapters, taught.trained, taught.teacher) == (8 * count.adapter(3), 4 * count.adapter(3), 0)


@pytest.mark.parametrize("base", ["nf4", "int8"])
def test_a_base_of_few_bits_keeps_embeddings_and_norms_whole(
    base: Any, llama_folder: Path, words_module: Callable[..., Any]
) -> None:
    count = Llama.of(llama_folder)
    found = weights(words_module(SFTModule, lora=LoRA(rank=3, base=base)))
    layers = [inputs * outputs for inputs, outputs in count.linear]
    if base == "nf4":  # half a byte a weight, one for each 64, four for each of 256 of these; a table and an offset
        stored = [each // 2 + math.ceil(each / 64) + 4 * math.ceil(each / 64 / 256) + 4 * 257 for each in layers]
    else:
        stored = [inputs * outputs + 4 * outputs for inputs, outputs in count.linear]
    assert found.student == 4 * (count.all - count.blocks * sum(layers)) + count.blocks * sum(stored)
    assert found.trained == found.adapters == 4 * count.adapter(3)


def test_another_teacher_has_its_own_weights(llama_folder: Path, family_folder: Callable[[str], Path]) -> None:
    module = ReinvokeModule(
        str(llama_folder),
        teacher=CopiedTeacher(model=str(llama_folder)),
        max_prompt_tokens=16,
        max_completion_tokens=8,
        max_teacher_prompt_tokens=16,
    )
    assert weights(module).teacher == 4 * Llama.of(llama_folder).all
    assert module.teacher_choice == CopiedTeacher(model=str(llama_folder))


def test_module_is_left_as_it_was_whatever_happens(words_module: Callable[..., Any]) -> None:
    module = words_module(SDFTModule, attention="flash_attention_2")
    logging.set_verbosity_info()
    try:
        with suppress(KeyboardInterrupt), Hollow(), loaded(module):
            assert (module.pretrained, module.attention) == (False, "sdpa")  # flash attention wants an accelerator
            assert logging.get_verbosity() == logging.ERROR
            raise KeyboardInterrupt
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()
    assert (module.pretrained, module.attention) == (True, "flash_attention_2")
    assert not {"policy", "teacher"} & module._modules.keys()
