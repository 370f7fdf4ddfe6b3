from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_sdft.data.templates import teacher_messages
from lightning_sdft.evaluation.gaps import Gap
from lightning_sdft.evaluation.preflight import ANSWERS, Preflight, copies, judge_preflight, preflight
from lightning_sdft.grading import ExactMatch
from lightning_sdft.grading.interval import Score
from lightning_sdft.policy import Policy
from lightning_sdft.records import GREEDY, Example, Sampling
from lightning_sdft.rollout import generate
from tests.modules.conftest import WORDS_TEMPLATE, question

LENGTH = 6


def shown(example: Example) -> Any:
    return teacher_messages(example, WORDS_TEMPLATE)


def greedy(policy: Policy, messages: Any) -> str:
    (rollout,) = generate(policy, [policy.tokenizer.encode(messages)], LENGTH, GREEDY)
    return policy.tokenizer.decode(rollout.completion)


def log_probabilities(policy: Policy, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """`(T, V)`, from the model's own logits."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([prompt + completion])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)


def test_accuracies_are_of_greedy_answers_with_and_without_the_demonstration(llama: Policy) -> None:
    llama.eval()
    examples = []
    for index in range(6):
        asked = question(index)
        by_itself, by_teacher = greedy(llama, asked.prompt), greedy(llama, shown(asked))
        assert by_itself != by_teacher
        right = by_itself if index < 2 else by_teacher if index < 5 else "neither"
        examples.append(replace(asked, reference=right))
    result = preflight(llama, examples, ExactMatch(), shown, LENGTH, batch_size=4)
    assert (result.questions, result.ungraded) == (6, 0)
    assert result.base.value == pytest.approx(2 / 6)
    assert result.teacher.value == pytest.approx(3 / 6)
    assert result.gain.value == pytest.approx(1 / 6)
    assert result.gain.low < 0 < result.gain.high
    assert result.solved == pytest.approx(3 / 4)


def test_distances_are_those_of_a_dense_computation(llama: Policy) -> None:
    llama.eval()
    examples = [replace(question(index), reference="") for index in range(5)]
    result = preflight(llama, examples, ExactMatch(), shown, LENGTH, batch_size=2, seed=3)
    prompts = [llama.tokenizer.encode(shown(example)) for example in examples]
    rollouts = generate(llama, prompts, LENGTH, Sampling(), seeds=[3 * 5 + index for index in range(5)])
    kl, surprise, demonstrated = [], [], []
    for example, rollout in zip(examples, rollouts, strict=True):
        own = llama.tokenizer.encode(example.prompt)
        base = log_probabilities(llama, own, rollout.completion)
        teacher = log_probabilities(llama, rollout.prompt, rollout.completion)
        kl.append((teacher.exp() * (teacher - base)).sum(-1))
        surprise.append(-base.gather(1, torch.tensor(rollout.completion)[:, None]).squeeze(1))
        demonstration = llama.tokenizer.encode_completion(example.demonstration)
        expected = log_probabilities(llama, own, demonstration)
        demonstrated.append(-expected.gather(1, torch.tensor(demonstration)[:, None]).squeeze(1))
    assert result.kl_per_token == pytest.approx(torch.cat(kl).mean().item(), rel=1e-4)
    assert result.kl_per_response == pytest.approx(sum(each.sum().item() for each in kl) / 5, rel=1e-4)
    assert result.teacher_surprise == pytest.approx(torch.cat(surprise).mean().item(), rel=1e-4)
    assert result.demonstration_surprise == pytest.approx(torch.cat(demonstrated).mean().item(), rel=1e-4)


def test_neither_random_numbers_nor_the_mode_of_the_model_change(llama: Policy) -> None:
    llama.train()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    preflight(llama, [replace(question(0), reference="")], ExactMatch(), shown, LENGTH)
    assert torch.rand(1) == expected
    assert llama.training


class Undecided(ExactMatch):
    def grade(self, response: str, reference: Any) -> bool | None:
        return None if reference == "?" else super().grade(response, reference)


def test_what_could_not_be_graded_is_left_out(llama: Policy) -> None:
    llama.eval()
    first = question(0)
    examples = [replace(first, reference=greedy(llama, first.prompt)), replace(question(1), reference="?")]
    result = preflight(llama, examples, Undecided(), shown, LENGTH)
    assert result.ungraded == 2
    assert (result.base.value, result.teacher.value, result.gain.value) == (1, 0, -1)


@pytest.mark.parametrize(
    ("answer", "demonstration", "verdict"),
    [
        ("one two three", "one two  three\n", True),
        ("one two three four five six seven eight nine ten", "one two three four five six seven eight nine ten", True),
        ("one two three four five six seven eight nine", "one two three four five six seven eight nine ten", True),
        ("four three two one", "one two three four", False),
        ("I think that it is B", "B", False),
        ("", "one", False),
    ],
)
def test_copies(answer: str, demonstration: str, verdict: bool) -> None:
    assert copies(answer, demonstration) is verdict


GOOD = Preflight(
    questions=64,
    base=Score(0.4, 0.3, 0.5),
    teacher=Score(0.9, 0.8, 1.0),
    gain=Score(0.5, 0.4, 0.6),
    solved=0.9,
    ungraded=0,
    kl_per_token=0.1,
    kl_per_response=5.0,
    teacher_surprise=0.5,
    demonstration_surprise=1.5,
    copied=0.1,
    truncated=0.0,
)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "go", None),
        ({"gain": Score(0.1, -0.01, 0.2)}, "stop", "beyond chance"),
        ({"gain": Score(float("nan"), float("nan"), float("nan"))}, "stop", "beyond chance"),
        ({"solved": 0.3}, "doubtful", "only 30% of what it fails"),
        ({"teacher_surprise": 1.5}, "doubtful", "as far from the model's own as the demonstrations"),
        ({"copied": 0.8, "teacher_surprise": 1.0}, "go", "80% of the teacher's answers copy"),
        ({"copied": 0.8}, "go", None),
        ({"truncated": 0.5}, "doubtful", "50% of the teacher's answers were cut"),
        ({"truncated": 0.6}, "doubtful", "60% of the answers were cut at the limit before they ended"),
        ({"base_truncated": 0.7}, "doubtful", "70% of the answers were cut at the limit before they ended"),
        ({"base_truncated": 0.5}, "go", None),
        ({"truncated": 1.0, "gain": Score(0, 0, 0)}, "stop", "raise max_completion_tokens"),
    ],
)
def test_verdict(changes: dict[str, Any], verdict: str, reason: str | None) -> None:
    given, reasons = judge_preflight(replace(GOOD, **changes))
    assert given == verdict
    assert [reason in each for each in reasons] == ([] if reason is None else [True])


def gap(temperature: float, gain: float, template: str = "set", width: float = 0.1, truncated: float = 0.0) -> Gap:
    teacher = Score(gain + 0.05, gain, gain + 0.1)
    score = Score(gain, gain - width, gain + width)
    return Gap(temperature, template, Score(0.05, 0, 0.1), teacher, score, truncated)


@pytest.mark.parametrize(
    ("gaps", "verdict", "reason"),
    [
        ([gap(1.0, 0.5), gap(0.5, 0.52)], "go", None),
        (
            [gap(1.0, 0.05), gap(0.5, 0.7)],
            "change",
            "at temperature 1, the teacher is right in 10% and the student in 5%",
        ),
        ([gap(1.0, 0.05), gap(0.5, 0.7)], "change", "with sampling.temperature=0.5 it would be 75% and 5%"),
        ([gap(1.0, 0.4), gap(0.5, 0.7)], "change", "with sampling.temperature=0.5 it would be 75%"),
        ([gap(0.5, 0.3), gap(0.5, 0.7, "other")], "change", "with teacher_template='other' it would be 75%"),
        ([gap(1.0, 0.05), gap(0.5, 0.08)], "stop", "there is nothing to distil"),
        ([gap(1.0, 0.05, truncated=0.9), gap(0.5, 0.08)], "stop", "90% of the answers were cut at the limit"),
        ([gap(1.0, 0.5, truncated=0.9), gap(0.5, 0.5)], "doubtful", "90% of the answers were cut at the limit"),
    ],
)
def test_verdict_is_about_samples_as_in_training(gaps: list[Gap], verdict: str, reason: str | None) -> None:
    """All of these models solve the task greedily."""
    given, reasons = judge_preflight(replace(GOOD, gaps=gaps))
    assert given == verdict
    assert [reason in each for each in reasons] == ([] if reason is None else [True])


def test_what_was_cut_is_said_first_and_settings_that_would_help_second() -> None:
    gaps = [gap(1.0, 0.05, truncated=0.9), gap(0.5, 0.7)]
    verdict, reasons = judge_preflight(replace(GOOD, gaps=gaps))
    assert verdict == "change"
    assert "90% of the answers were cut" in reasons[0]
    assert "with sampling.temperature=0.5" in reasons[1]


def test_without_references_it_speaks_of_words() -> None:
    ungraded = replace(GOOD, gaps=[gap(1.0, 0.05), gap(0.5, 0.7)], graded=False, solved=float("nan"))
    _, reasons = judge_preflight(ungraded)
    assert "the teacher has 10% of its words from the demonstration and the student 5%" in reasons[0]
    assert judge_preflight(replace(ungraded, gaps=[gap(1.0, 0.3)])) == ("go", [])


def test_answers_are_counted_and_those_that_were_cut_too(llama: Policy) -> None:
    llama.eval()
    examples = [replace(question(index), reference="") for index in range(5)]
    answered: list[int] = []
    result = preflight(llama, examples, ExactMatch(), shown, 2, batch_size=2, answered=answered.append)
    assert answered == [2, 2, 1] * ANSWERS
    prompts = [llama.tokenizer.encode(example.prompt) for example in examples]
    own = generate(llama, prompts, 2, GREEDY)
    assert result.base_truncated == sum(not each.finished for each in own) / 5 > 0
