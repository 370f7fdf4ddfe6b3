from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import pytest

from lightning_sdft.callbacks.held_out import HeldOut
from lightning_sdft.callbacks.measures import measure, repetition
from lightning_sdft.modules import SDFTModule
from lightning_sdft.records import GREEDY, Example, Sampling
from lightning_sdft.rollout import generate
from tests.callbacks.test_held_out import EXAMPLES, Long, module
from tests.modules.conftest import question

__all__ = ["module"]


def right(module: SDFTModule, who: Any, shown: bool, asked: Sequence[Example] = EXAMPLES) -> list[bool]:
    """Whether each greedy answer is right, one prompt at a time."""
    given = []
    for example in asked:
        prompt = module.tokenizer.encode(module.teacher_messages(example) if shown else example.prompt)
        (rollout,) = generate(who, [prompt], 6, GREEDY)
        given.append(Long().grade(module.tokenizer.decode(rollout.completion), 2))
    return [each for each in given if each is not None]


def share(verdicts: list[bool]) -> float:
    return sum(verdicts) / len(verdicts)


def test_who_is_asked_what(module: SDFTModule) -> None:
    measures = measure(HeldOut.of(module, EXAMPLES, Long(), batch_size=5), step=7)
    assert measures["step"] == 7
    assert (measures["questions"], measures["sampled"]) == (12, 3)
    student, teacher = module.policy, module.teacher.policy
    expected = {
        "student/alone": share(right(module, student, False, EXAMPLES[:3])),
        "student/in_context": share(right(module, student, True)),
        "teacher/accuracy": share(right(module, teacher, True)),
    }
    assert len(set(expected.values())) == 3  # else the test could not tell them apart
    assert {name: measures[name] for name in expected} == pytest.approx(expected)
    hot = Sampling(temperature=1.5 * 0.8)
    scores, _ = HeldOut.of(module, EXAMPLES, Long(), batch_size=12).scores(student, True, hot)
    graded = [score for score in scores if not math.isnan(score)]
    assert measures["student/in_context_stressed"] == pytest.approx(sum(graded) / len(graded))


def test_lengths_and_ends_are_those_of_the_sampled_answers(module: SDFTModule) -> None:
    whole = [Example(each.id, each.prompt, each.demonstration, reference=2) for each in map(question, range(48))]
    held_out = HeldOut.of(module, whole, Long(), 12)
    measures = measure(held_out, 0)
    rollouts = held_out.part(4).answers(module.policy, False, module.sampling)
    lengths = sorted(len(each.completion) for each in rollouts)
    ends = [each.log_probabilities[-1] for each in rollouts if each.finished]
    assert 0 < len(ends) < len(rollouts)
    assert measures["rollout/cut"] == pytest.approx(1 - len(ends) / len(rollouts))
    texts = [module.tokenizer.answer(each.completion) for each in rollouts]
    assert measures["rollout/empty"] == pytest.approx(sum(not each.strip() for each in texts) / len(texts))
    assert measures["rollout/empty"] > 0
    assert measures["rollout/end_log_probability"] == pytest.approx(sum(ends) / len(ends))
    assert measures["rollout/length_p50"] == (lengths[5] + lengths[6]) / 2
    assert lengths[10] <= measures["rollout/length_p95"] <= lengths[11]


def test_repetition_is_high_only_for_text_that_repeats_itself() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    assert repetition("") == 0.0
    assert repetition(text) < 1.2
    assert repetition(text * 40) == pytest.approx(len(text) * 40 / len(zlib.compress((text * 40).encode())))
    assert repetition(text * 40) > 10
