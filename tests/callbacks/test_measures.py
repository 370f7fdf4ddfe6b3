from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lightning_sdft.callbacks.held_out import HeldOut
from lightning_sdft.callbacks.measures import measure, repetition
from lightning_sdft.grading.base import Grader
from lightning_sdft.modules import SDFTModule
from lightning_sdft.records import GREEDY, Example, Sampling
from lightning_sdft.rollout import generate
from tests.modules.conftest import question
from tests.modules.dense import log_probabilities


class Long(Grader):
    """An answer is right if it has more than as many words as the reference says; one of no word is not graded."""

    def grade(self, response: str, reference: int) -> bool | None:
        words = len(response.split())
        return None if words == 0 else words > reference


@pytest.fixture
def module(words_module: Any) -> SDFTModule:
    """A module whose student has moved away from its teacher."""
    made = words_module(SDFTModule, sampling=Sampling(temperature=0.8), max_completion_tokens=6)
    made.configure_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.policy.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    assert isinstance(made, SDFTModule)
    return made


EXAMPLES = [Example(each.id, each.prompt, each.demonstration, reference=2) for each in map(question, range(12))]


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


def test_the_effect_of_the_demonstration_is_the_divergence_of_the_whole_logits(module: SDFTModule) -> None:
    held_out = HeldOut.of(module, EXAMPLES[:3], None, batch_size=2)
    teacher = module.teacher.policy
    answers = held_out.answers(teacher, True, GREEDY)
    expected: list[float] = []
    for example, answer in zip(EXAMPLES, answers, strict=False):
        with torch.no_grad():
            shown, alone = (
                log_probabilities(teacher.model, module.tokenizer.encode(messages), answer.completion)
                for messages in (module.teacher_messages(example), example.prompt)
            )
        expected += (shown.exp() * (shown - alone)).sum(-1).tolist()
    assert held_out.effect(teacher, answers) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert max(expected) > 0.01


def test_without_grader_the_score_is_the_geometric_mean_probability_of_the_demonstration(module: SDFTModule) -> None:
    scores, _ = HeldOut.of(module, EXAMPLES[:3], None, batch_size=2).scores(module.policy, True, GREEDY)
    for example, score in zip(EXAMPLES, scores, strict=False):
        completion = module.tokenizer.encode_completion(example.demonstration or "")
        prompt = module.tokenizer.encode(module.teacher_messages(example))
        with torch.no_grad():
            logs = log_probabilities(module.policy.model.eval(), prompt, completion)
        own = logs[torch.arange(len(completion)), torch.tensor(completion)]
        assert score == pytest.approx(own.mean().exp().item(), rel=1e-4)


def test_sampled_answers_depend_on_their_example_only_and_leave_the_generator_alone(module: SDFTModule) -> None:
    state = torch.get_rng_state()
    whole = HeldOut.of(module, EXAMPLES, Long(), 12).answers(module.policy, False, module.sampling)
    half = HeldOut.of(module, EXAMPLES[1::2], Long(), 2).answers(module.policy, False, module.sampling)
    assert [each.completion for each in half] == [each.completion for each in whole[1::2]]
    assert torch.equal(torch.get_rng_state(), state)


def test_lengths_and_ends_are_those_of_the_sampled_answers(module: SDFTModule) -> None:
    whole = [Example(each.id, each.prompt, each.demonstration, reference=2) for each in map(question, range(48))]
    held_out = HeldOut.of(module, whole, Long(), 12)
    measures = measure(held_out, 0)
    rollouts = held_out.part(4).answers(module.policy, False, module.sampling)
    lengths = sorted(len(each.completion) for each in rollouts)
    ends = [each.log_probabilities[-1] for each in rollouts if each.finished]
    assert 0 < len(ends) < len(rollouts)
    assert measures["rollout/cut"] == pytest.approx(1 - len(ends) / len(rollouts))
    assert measures["rollout/end_log_probability"] == pytest.approx(sum(ends) / len(ends))
    assert measures["rollout/length_p50"] == (lengths[5] + lengths[6]) / 2
    assert lengths[10] <= measures["rollout/length_p95"] <= lengths[11]


def test_repetition_is_high_only_for_text_that_repeats_itself() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    assert repetition("") == 0.0
    assert repetition(text) < 1.2
    assert repetition(text * 40) == pytest.approx(len(text) * 40 / len(zlib.compress((text * 40).encode())))
    assert repetition(text * 40) > 10
