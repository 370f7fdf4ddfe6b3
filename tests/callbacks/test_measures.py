from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_sdft.callbacks.held_out import HeldOut
from lightning_sdft.callbacks.measures import measure, measure_under_stress, repetition
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.modules import SDFTModule, SDPOModule
from lightning_sdft.modules.attempts import attempts
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


def test_a_teacher_that_is_told_of_attempts_is_asked_behind_what_it_is_told_now(
    words_module: Any, words_data: Any
) -> None:
    asked = [Example(each.id, each.prompt, reference=2) for each in map(question, range(24))]
    made = words_module(SDPOModule, teacher_template=["{prompt}", " w50 {attempt} w51"], max_completion_tokens=6)
    made.configure_model()
    made.informing.take_grader(words_data(validation=[EvaluationSet(asked, {"long": Long()})]))
    with torch.no_grad():
        for index, weight in enumerate(made.policy.parameters()):
            weight.mul_(1 + 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)))
    held_out = HeldOut.of(made, asked, made.informing.grader, batch_size=7)
    measures = measure(held_out, step=0)
    found = attempts(made, asked)
    assert 0 < sum(each.told for each in found) < len(found)

    def scores(who: Any, prompts: list[list[int]], sampling: Sampling = GREEDY) -> list[float]:
        asked_so = replace(held_out, shown=prompts).scores(who, True, sampling)
        return [each for each in asked_so[0] if not math.isnan(each)]

    told = [each.shown for each in found]
    teacher = made.teacher.policy
    expected = {
        "student/in_context": scores(made.policy, told),
        "teacher/accuracy": scores(teacher, told),
        "student/in_context_stressed": scores(made.policy, told, Sampling(temperature=1.5)),
    }
    means = {name: sum(each) / len(each) for name, each in expected.items()}
    assert {name: measures[name] for name in means} == pytest.approx(means)
    alone = scores(teacher, list(held_out.alone))
    assert means["teacher/accuracy"] != pytest.approx(sum(alone) / len(alone))  # else being told changed nothing
    assert measure_under_stress(held_out, 0)["student/in_context_stressed"] == pytest.approx(
        means["student/in_context_stressed"]
    )


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
