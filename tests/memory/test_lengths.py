"""Lengths in tokens of the word-level tokenizer: a prompt of n words has n + 3, a demonstration n + 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError
from lightning_sdft.grading import ExactMatch
from lightning_sdft.memory import Lengths, lengths_by_budgets, lengths_by_data
from lightning_sdft.modules import CPTModule, DFTModule, SDFTModule, SDPOModule, SFTModule
from lightning_sdft.records import Example
from lightning_sdft.rollout import VLLMEngine

TURNS, END, SHOWN = 3, 1, 3
"""Tokens around a prompt, behind a demonstration, and those of the teacher template."""


def example(prompt: int, demonstration: int) -> Example:
    words = " ".join(["w7"] * prompt)
    return Example(f"{prompt}+{demonstration}", [{"role": "user", "content": words}], " ".join(["w21"] * demonstration))


def evaluated(*prompts: int) -> EvaluationSet:
    examples = [Example(str(n), [{"role": "user", "content": " ".join(["w7"] * n)}], reference="w1") for n in prompts]
    return EvaluationSet(examples, {f"set{len(prompts)}": ExactMatch()})


@pytest.mark.parametrize(("method", "student"), [(SFTModule, (16, 8)), (DFTModule, (16, 8)), (CPTModule, (1, 8))])
def test_budgets_are_filled(
    method: Any, student: tuple[int, int], words_module: Callable[..., Any], words_data: Callable[..., Any]
) -> None:
    data = words_data(batch_size=8, micro_batch_size=2)
    assert lengths_by_budgets(words_module(method), data, 1, evaluated=3) == Lengths(
        [student] * 2, [], [], [16] * 3, completion=8, micro_batches=4
    )


def test_processes_share_a_step(words_module: Callable[..., Any], words_data: Callable[..., Any]) -> None:
    module = words_module(SDFTModule)
    found = lengths_by_budgets(module, words_data(batch_size=8, micro_batch_size=2), 2, evaluated=0)
    assert (found.micro_batches, len(found.student), len(found.sampled)) == (2, 2, 4)
    found = lengths_by_budgets(module, words_data(batch_size=8, micro_batch_size=None), 2, evaluated=0)
    assert (found.micro_batches, len(found.student), len(found.sampled)) == (1, 4, 4)
    with pytest.raises(DataError, match="batch_size=8 cannot be shared by 3 processes"):
        lengths_by_budgets(module, words_data(batch_size=8, micro_batch_size=2), 3, evaluated=0)


@pytest.mark.parametrize(
    ("arguments", "sampled"),
    [
        ({}, [16] * 4),
        ({"rollout_source": "teacher"}, [32] * 4),
        ({"rollout_source": "demonstration"}, []),
        ({"engine": VLLMEngine()}, []),  # whose memory is its own
    ],
)
def test_the_writer_of_rollouts_reads_its_own_prompts(
    arguments: dict[str, Any], sampled: list[int], words_module: Callable[..., Any], words_data: Callable[..., Any]
) -> None:
    data = words_data(batch_size=4, micro_batch_size=2)
    found = lengths_by_budgets(words_module(SDFTModule, **arguments), data, 1, evaluated=0)
    assert found == Lengths([(16, 8)] * 2, [(32, 8)] * 2, sampled, [], completion=8, micro_batches=2)


def test_generations_are_completions_of_the_same_prompts(
    words_module: Callable[..., Any], words_data: Callable[..., Any]
) -> None:
    module = words_module(SDFTModule, generations=4)
    data = words_data([example(2, 3), example(9, 1), example(4, 6), example(1, 1)], batch_size=4, micro_batch_size=2)
    for found in (lengths_by_budgets(module, data, 1, evaluated=0), lengths_by_data(module, data, 1)):
        assert (found.generations, len(found.student), len(found.teacher), len(found.sampled)) == (4, 2, 2, 4)


def test_data_are_read_with_the_longest_at_once(
    words_module: Callable[..., Any], words_data: Callable[..., Any]
) -> None:
    train = [example(2, 3), example(9, 1), example(4, 6), example(1, 1)]
    data = words_data(
        train, [evaluated(1, 2, 9), evaluated(5, 6, 7, 8)], batch_size=4, micro_batch_size=2, evaluation_batch_size=2
    )
    found = lengths_by_data(words_module(SFTModule), data, 1)
    assert sorted(found.student) == sorted([(9 + TURNS, 1 + END), (4 + TURNS, 6 + END)])
    assert list(found.evaluated) == [8 + TURNS, 7 + TURNS]  # of the sets, the one with the most tokens in a batch
    assert (list(found.teacher), list(found.sampled), found.completion, found.micro_batches) == ([], [], 8, 2)


@pytest.mark.parametrize("source", ["student", "teacher", "demonstration"])
def test_teacher_is_shown_the_demonstration_and_responses_are_as_long_as_they_may_be(
    source: str, words_module: Callable[..., Any], words_data: Callable[..., Any]
) -> None:
    train = [example(2, 3), example(9, 1), example(4, 6), example(1, 1)]
    module = words_module(SDFTModule, rollout_source=source)
    found = lengths_by_data(module, words_data(train, batch_size=4, micro_batch_size=1), 1)
    own = [prompt + TURNS for prompt in (2, 9, 4, 1)]
    shown = [prompt + demonstration + TURNS + SHOWN for prompt, demonstration in ((2, 3), (9, 1), (4, 6), (1, 1))]
    if source == "demonstration":
        assert list(found.student) == [(9 + TURNS, 1 + END)] or list(found.student) == [(4 + TURNS, 6 + END)]
        assert max(map(sum, found.student)) == 14
        assert list(found.sampled) == []
    else:
        assert list(found.student) == [(max(own), 8)]
        assert list(found.teacher) == [(max(shown), 8)]
        assert list(found.sampled) == sorted(own if source == "student" else shown, reverse=True)


def test_what_cannot_be_trained_on_is_not_read(
    words_module: Callable[..., Any], words_data: Callable[..., Any]
) -> None:
    too_long = example(40, 2)
    data = words_data([too_long, example(1, 1)], batch_size=1, micro_batch_size=1)
    found = lengths_by_data(words_module(SFTModule), data, 1)
    assert list(found.student) == [(1 + TURNS, 1 + END)]
    with pytest.raises(DataError, match="none of 2 training examples can be trained on"):
        lengths_by_data(words_module(SFTModule), words_data([too_long, example(41, 2)]), 1)


def test_what_a_teacher_will_be_told_is_as_long_as_its_budget(
    words_module: Callable[..., Any], words_data: Callable[..., Any]
) -> None:
    data = words_data([example(3, 2), example(5, 2)], batch_size=2, micro_batch_size=None)
    found = lengths_by_data(words_module(SDPOModule), data, 1)
    assert (found.student, found.teacher) == ([(5 + TURNS, 8), (3 + TURNS, 8)], [(32, 8)] * 2)
