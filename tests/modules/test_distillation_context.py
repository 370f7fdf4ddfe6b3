from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightning_sdft.data.templates import PAPER_TEMPLATE, TEMPLATES, PrivilegedContext
from lightning_sdft.errors import DataError
from lightning_sdft.modules import DistillationModule
from lightning_sdft.records import Example, Rollout
from tests.modules.conftest import EXAMPLES, SHOWN, WORDS_TEMPLATE
from tests.modules.dense import (
    token_ids,
)

PRIVILEGED: dict[PrivilegedContext, tuple[str | None, str]] = {
    "demonstration": (WORDS_TEMPLATE, "w50 w1 w2 w51 w21 w22 w23 w52"),
    "article": ("{context} w53 {prompt}", "w54 w56 w53 w1 w2"),
    "both": ("{context} w53 {prompt} w51 {demonstration}", "w54 w56 w53 w1 w2 w51 w21 w22 w23"),
    "none": (None, "w1 w2"),
}


@pytest.mark.parametrize("context", PRIVILEGED)
def test_teacher_sees_the_privileged_context_and_the_student_does_not(
    context: PrivilegedContext, words_module: Callable[..., DistillationModule]
) -> None:
    template, seen = PRIVILEGED[context]
    module = words_module(DistillationModule, privileged_context=context, teacher_template=template)
    rollouts = [Rollout(token_ids("<user> w1 w2 <end> <assistant>"), [7, 8], [0.0, 0.0], False)]
    (teacher,) = module.teacher_sequences(EXAMPLES[:1], rollouts)
    (student,) = module.student_sequences(EXAMPLES[:1], rollouts)
    assert teacher.prompt == token_ids(f"<user> {seen} <end> <assistant>")
    assert student.prompt == token_ids("<user> w1 w2 <end> <assistant>")
    assert teacher.completion == student.completion == [7, 8]


@pytest.mark.parametrize("context", PRIVILEGED)
def test_default_template_shows_just_the_privileged_context(
    context: PrivilegedContext, words_module: Callable[..., DistillationModule]
) -> None:
    module = words_module(DistillationModule, privileged_context=context)
    assert module.teacher_template == TEMPLATES[context]
    (message,) = module.teacher_messages(EXAMPLES[0])
    assert "w1 w2" in message["content"]
    assert ("w21 w22 w23" in message["content"]) == (context in ("demonstration", "both"))
    assert ("w54 w56" in message["content"]) == (context in ("article", "both"))


def test_system_turn_stays_in_front_of_the_teachers_prompt(words_module: Callable[..., DistillationModule]) -> None:
    system, user = words_module(DistillationModule, **SHOWN).teacher_messages(EXAMPLES[1])
    assert system == {"role": "system", "content": "w4"}
    assert user == {"role": "user", "content": "w50 w6 w7 w8 w51 w28 w29 w52"}
    assert EXAMPLES[1].prompt[-1]["content"] == "w6 w7 w8"


def test_template_must_agree_with_the_privileged_context(words_module: Callable[..., DistillationModule]) -> None:
    with pytest.raises(ValueError, match=r"=both calls for \{context\}, \{demonstration\}, \{prompt\}"):
        words_module(DistillationModule, privileged_context="both", teacher_template=PAPER_TEMPLATE)
    with pytest.raises(ValueError, match="privileged_context=none calls for"):
        words_module(DistillationModule, teacher_template=WORDS_TEMPLATE)


@pytest.mark.parametrize(
    ("arguments", "lacks"),
    [
        (SHOWN, "demonstration"),
        ({"privileged_context": "article", "teacher_template": "{context} {prompt}"}, "context"),
        ({"rollout_source": "demonstration"}, "demonstration"),
    ],
)
@pytest.mark.parametrize("empty", [None, ""])
def test_example_without_what_the_teacher_sees_is_named_before_training(
    arguments: dict[str, Any],
    lacks: str,
    empty: str | None,
    words_module: Callable[..., DistillationModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    lacking = Example("bare", EXAMPLES[0].prompt, **{"demonstration": "w1", "context": "w2", lacks: empty})
    with pytest.raises(DataError, match=f"example 'bare' has no {lacks}, which DistillationModule learns from"):
        make_trainer().fit(words_module(DistillationModule, **arguments), words_data([*EXAMPLES, lacking]))


def test_without_privileged_context_prompts_suffice(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    bare = [Example(str(index), EXAMPLES[index % 4].prompt) for index in range(4)]
    trainer = make_trainer(max_steps=1)
    trainer.fit(words_module(DistillationModule), datamodule=words_data(bare))
    assert trainer.global_step == 1


def test_teacher_prompt_over_its_budget_is_named_with_both_lengths(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN, max_teacher_prompt_tokens=10)
    message = (
        r"1 of 4 examples.* 'b': its teacher prompt has 14 tokens \(9 of them the prompt itself\), "
        "max_teacher_prompt_tokens=10"
    )
    short = [Example(each.id, each.prompt, each.demonstration) for each in (*EXAMPLES[1:], question_of_one_word())]
    with pytest.raises(DataError, match=message):
        make_trainer().fit(module, datamodule=words_data(short))


def question_of_one_word() -> Example:
    return Example("one word", [{"role": "user", "content": "w1"}], "w2")


def test_demonstration_over_the_completion_budget_is_named_where_it_is_trained_on(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    arguments = {"rollout_source": "demonstration", "max_completion_tokens": 3}
    with pytest.raises(DataError, match="'a': its demonstration has 4 tokens, max_completion_tokens=3"):
        make_trainer().fit(words_module(DistillationModule, **arguments), datamodule=words_data(EXAMPLES))
    trainer = make_trainer(max_steps=1)  # but as privileged context it may be longer than what the student writes
    trainer.fit(words_module(DistillationModule, **SHOWN, max_completion_tokens=3), datamodule=words_data(EXAMPLES))
    assert trainer.global_step == 1
