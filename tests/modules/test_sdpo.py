from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading import Grader, Number
from lightning_sdft.modules import SDPOModule
from lightning_sdft.records import Example, Rollout
from tests.modules.conftest import EXAMPLES, question, ready
from tests.modules.dense import check, forward_kl, log_probabilities, mean, step, token_ids

TOLD = ["{prompt}", " w50 {attempt} w51"]


class Short(Grader):
    """Answers of at most so many words are right."""

    def grade(self, response: str, reference: Any) -> bool:
        return len(response.split()) <= reference


def graded(examples: list[Example], words_data: Any, **arguments: Any) -> Any:
    return words_data(examples, [EvaluationSet(examples[:2], {"short": Short()})], **arguments)


@pytest.fixture
def module(words_module: Callable[..., SDPOModule], words_data: Any) -> SDPOModule:
    return prepared(words_module, words_data)


def prepared(words_module: Callable[..., SDPOModule], words_data: Any, **arguments: Any) -> SDPOModule:
    made = ready(words_module(SDPOModule, **{"teacher_template": TOLD, **arguments}))
    assert isinstance(made, SDPOModule)
    made.informing.take_grader(graded(asked(), words_data))
    return made


def asked(limit: int = 4) -> list[Example]:
    return [replace(each, demonstration=None, context=None, reference=limit) for each in EXAMPLES]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize("size", [2, 4])
def test_loss_is_the_divergence_from_a_teacher_that_is_told_of_wrong_answers(
    size: int, reduction: str, words_module: Callable[..., SDPOModule], words_data: Any
) -> None:
    module = prepared(words_module, words_data, reduction=reduction, skip_tokens=1)
    torch.manual_seed(3)
    loss, group = step(module, asked(), size)
    parts, wrong = [], 0
    for item in group.items:
        completion = item.student.completion
        attempt = module.tokenizer.decode(completion)
        *_, last = item.example.prompt
        said = " ".join(f"<{each['role']}> {each['content']} <end>" for each in item.example.prompt[:-1])
        told = token_ids(f"{said} <user> {last['content']} w50 {attempt} w51 <end> <assistant>")
        if len(attempt.split()) <= 4:
            assert item.teacher is not None
            assert item.teacher.prompt == item.student.prompt
            parts.append(torch.zeros(0, requires_grad=True))
            continue
        wrong += 1
        student = log_probabilities(module.policy.model, item.student.prompt, completion)
        with torch.no_grad():
            teacher = log_probabilities(module.teacher.policy.model, told, completion)
        parts.append(forward_kl(student, teacher)[1:])
    assert 0 < wrong < len(parts)  # and the right ones count as 0 in the mean over sequences
    expected = (
        torch.cat(parts).mean()
        if reduction == "token"
        else mean(part.mean() if len(part) else torch.zeros(()) for part in parts)
    )
    check(module.policy, loss, expected, 1e-6)


def test_nothing_is_learned_where_all_is_right(module: SDPOModule) -> None:
    loss, group = step(module, asked(limit=99))
    loss.backward()
    assert loss == 0
    assert group.tokens == 0
    assert all(not each.grad.any() for each in module.policy.parameters() if each.grad is not None)


def test_it_logs_how_many_answers_were_right(
    words_module: Callable[..., SDPOModule], words_data: Any, make_trainer: Any
) -> None:
    trainer = make_trainer(max_steps=1)
    examples = [replace(question(index), demonstration=None, reference=99 * (index % 2)) for index in range(4)]
    trainer.fit(words_module(SDPOModule, teacher_template=TOLD), graded(examples, words_data))
    assert trainer.callback_metrics["feedback/right"] == 0.5
    assert trainer.callback_metrics["feedback/informed"] == 0.5
    assert trainer.callback_metrics["train/loss"] > 0


def test_rollouts_are_the_students_and_what_is_shown_is_the_templates(words_module: Callable[..., SDPOModule]) -> None:
    for name, value in {"rollout_source": "teacher", "privileged_context": "both", "teacher_share": None}.items():
        with pytest.raises(TypeError, match=name):
            words_module(SDPOModule, **{name: value})
    with pytest.raises(SettingError, match=r"has the placeholders \['prompt'\]"):
        words_module(SDPOModule, teacher_template=["{prompt}"])


@pytest.mark.parametrize(
    ("template", "changes", "message"),
    [
        (TOLD, {"reference": None}, "example '1' has no reference, which SDPOModule learns from"),
        (["{prompt}", "{context}", "{feedback}"], {}, "example '1' has no context"),
    ],
)
def test_an_example_without_what_is_needed_is_named(
    template: list[str], changes: dict[str, Any], message: str, words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    first, *others = [replace(question(index), context="w1", reference=2) for index in range(4)]
    examples = [first, replace(others[0], context=None, **changes), *others[1:]]
    with pytest.raises(DataError, match=message):
        make_trainer().fit(words_module(SDPOModule, teacher_template=template), graded(examples, words_data))


def test_a_reference_that_cannot_be_graded_is_named(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    examples = [replace(question(index), reference=[7, "seven"][index == 2]) for index in range(4)]
    data = words_data(examples, [EvaluationSet(examples[:2], {"number": Number()})])
    with pytest.raises(DataError, match="example '2' cannot be graded by Number"):
        make_trainer().fit(words_module(SDPOModule, teacher_template=TOLD), data)


def test_micro_batches_share_what_was_found(module: SDPOModule) -> None:
    batches = MicroBatch.cut(asked(), 2)
    module.fill(batches[0].group)
    items = batches[0].group.items
    module.fill(batches[1].group)
    assert batches[1].group.items is items


def test_siblings_of_a_step_are_shown_to_each_other(words_module: Any, words_data: Any) -> None:
    template = ["{prompt}", " w50 {sibling} w51"]
    module = prepared(words_module, words_data, teacher_template=template, generations=4)
    torch.manual_seed(0)
    _, group = step(module, asked(limit=3), 2)
    right = {}
    for item in group.items:
        text = module.tokenizer.decode(item.student.completion)
        right.setdefault(item.example.id, []).append(text if len(text.split()) <= 3 else "")
    seen = set()
    for number, item in enumerate(group.items):
        others = [text for place, text in enumerate(right[item.example.id]) if text and place != number % 4]
        assert item.teacher is not None
        shown = module.tokenizer.hugging_face.decode(item.teacher.prompt)
        assert (f"w50 {others[0]} w51" in shown) if others else item.teacher.prompt == item.student.prompt
        seen.add(bool(others))
    assert seen == {True, False}


def test_rollouts_of_one_example_follow_one_another(words_module: Any, words_data: Any) -> None:
    module = prepared(words_module, words_data, teacher_template=["{prompt}", " w50 {demonstration}"])
    prompts = [token_ids(f"<user> {each} <end> <assistant>") for each in ("w1 w2", "w3")]
    texts = [(prompts[0], "w6"), (prompts[0], "w7 w8 w9 w9 w9"), (prompts[1], "w8 w8 w8 w8 w8"), (prompts[1], "w7")]
    rollouts = [Rollout(prompt, token_ids(text), [0.0] * len(text.split()), False) for prompt, text in texts]
    sequences = module.teacher_sequences([asked()[0], asked()[2]], rollouts)
    told = [token_ids(f"<user> {each} <end> <assistant>") for each in ("w1 w2 w50 w6", "w3 w50 w7")]
    assert [each.prompt for each in sequences] == [prompts[0], told[0], told[1], prompts[1]]
    assert [each.completion for each in sequences] == [each.completion for each in rollouts]
