from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.records import GREEDY, Sampling
from lightning_sdft.rollout import generate


def greedy(module: CausalLMModule, text: str) -> str:
    prompt = module.tokenizer.encode([{"role": "user", "content": text}])
    (rollout,) = generate(module.policy, [prompt], module.max_completion_tokens, GREEDY)
    return module.tokenizer.decode(rollout.completion)


@pytest.mark.parametrize("method", [SFTModule, SDFTModule])
def test_answers_are_greedy_and_in_order(method: Any, words_module: Callable[..., CausalLMModule]) -> None:
    module = words_module(method)
    texts = ["w1 w2", "w3", "w7 w8 w9"]
    answers = module.answer(texts, batch_size=2)  # loads the models
    assert answers == [greedy(module, text) for text in texts]
    assert len(set(answers)) == 3
    assert module.answer("w3") == answers[1:2]
    assert module.answer([[{"role": "user", "content": "w3"}]]) == answers[1:2]


def test_sampled_answers_depend_on_the_seed_alone(words_module: Callable[..., CausalLMModule]) -> None:
    module = words_module()
    first, second, again = (module.answer(["w1 w2"] * 4, Sampling(), seed=seed) for seed in (0, 1, 0))
    assert first == again != second
    assert len(set(first)) > 1


def test_neither_mode_nor_random_numbers_change(words_module: Callable[..., CausalLMModule]) -> None:
    module = words_module(SDFTModule, pretrained=False)
    states = torch.get_rng_state(), random.getstate()
    module.answer("w1", Sampling())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert module.policy.model.training
    assert module.training


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["w1", "w1 " * 20], "prompt 1: its prompt has 23 tokens, max_prompt_tokens=16; shorten it"),
        ([""], "the prompt is empty"),
        ([[{"role": "assistant", "content": "w1"}]], "ends in a 'assistant' turn"),
    ],
)
def test_prompt_that_cannot_be_answered_is_refused(
    prompts: Any, said: str, words_module: Callable[..., CausalLMModule]
) -> None:
    with pytest.raises(DataError, match=said):
        words_module().answer(prompts)


def test_batch_of_nothing_is_refused(words_module: Callable[..., CausalLMModule]) -> None:
    with pytest.raises(SettingError, match="answer: batch_size=0"):
        words_module().answer("w1", batch_size=0)
