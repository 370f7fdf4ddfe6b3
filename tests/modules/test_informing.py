"""What a teacher is told of the student's answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest

from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError
from lightning_sdft.grading import ExactMatch, Grader
from lightning_sdft.modules.informing import Informing
from lightning_sdft.policy import Tokenizer, load_tokenizer
from lightning_sdft.records import Example, Rollout
from tests.modules.dense import token_ids

PARTS = ("{prompt}", " w50 {demonstration}", " w51 {attempt} w52 {feedback}")


class Words(Grader):
    """Says which answer is right, which cannot be graded, and what is wrong with others."""

    def grade(self, response: str, reference: Any) -> bool | None:
        return None if response == "w9" else response == reference

    def feedback(self, response: str, reference: Any) -> str:
        return f"w53 {response}"


@pytest.fixture
def tokenizer(family_folder: Any) -> Tokenizer:
    return load_tokenizer(str(family_folder("llama")))


@pytest.fixture
def told(tokenizer: Tokenizer, words_data: Any) -> Informing:
    return informing(tokenizer, words_data)


def informing(
    tokenizer: Tokenizer,
    words_data: Any,
    grader: Grader | None = None,
    limit: int = 32,
    parts: tuple[str, ...] = PARTS,
) -> Informing:
    made = Informing(tokenizer, parts, limit)
    made.take_grader(words_data(validation=[EvaluationSet([example("a")], {"words": grader or Words()})]))
    return made


def example(name: str, demonstration: str | None = None) -> Example:
    return Example(name, [{"role": "user", "content": "w1 w2"}], demonstration, reference="w7")


def answers(*texts: str) -> list[Rollout]:
    prompt = token_ids("<user> w1 w2 <end> <assistant>")
    return [Rollout(prompt, token_ids(f"{text} <end>"), [0.0] * (len(text.split()) + 1), True) for text in texts]


def words(tokenizer: Tokenizer, prompts: Sequence[list[int] | None]) -> list[str | None]:
    return [None if each is None else tokenizer.hugging_face.decode(each) for each in prompts]


def test_a_wrong_answer_is_told_with_what_is_wrong_and_a_right_one_is_not(
    told: Informing, tokenizer: Tokenizer
) -> None:
    prompts = told.prompts([example("a"), example("b"), example("c")], answers("w8", "w7", "w9"))
    assert words(tokenizer, prompts) == ["<user> w1 w2 w51 w8 w52 w53 w8 <end> <assistant>", None, None]
    assert told.shares == {"feedback/right": 1 / 3, "feedback/informed": 1 / 3}


def test_the_demonstration_is_shown_beside_right_answers_too(told: Informing, tokenizer: Tokenizer) -> None:
    prompts = told.prompts([example("a", "w3 w4")] * 2, answers("w7", "w8"))
    assert words(tokenizer, prompts) == [
        "<user> w1 w2 w50 w3 w4 <end> <assistant>",
        "<user> w1 w2 w50 w3 w4 w51 w8 w52 w53 w8 <end> <assistant>",
    ]


def test_a_right_answer_to_the_same_prompt_stands_for_the_demonstration(told: Informing, tokenizer: Tokenizer) -> None:
    """Of another rollout: none is shown its own."""
    asked = [example("a"), example("b"), example("a"), example("a"), example("b"), example("c")]
    prompts = told.prompts(asked, answers("w8", "w6", "w7", "w9", "w7", "w7"))
    assert words(tokenizer, prompts) == [
        "<user> w1 w2 w50 w7 w51 w8 w52 w53 w8 <end> <assistant>",
        "<user> w1 w2 w50 w7 w51 w6 w52 w53 w6 <end> <assistant>",
        None,
        "<user> w1 w2 w50 w7 <end> <assistant>",
        None,
        None,
    ]
    twice = told.prompts([example("a")] * 2, answers("w7", "w7"))
    assert words(tokenizer, twice) == ["<user> w1 w2 w50 w7 <end> <assistant>"] * 2


def test_a_sibling_is_no_demonstration_of_the_datas_own(tokenizer: Tokenizer, words_data: Any) -> None:
    made = informing(tokenizer, words_data, parts=("{prompt}", " w50 {sibling}"))
    prompts = made.prompts([example("a", "w3 w4")] * 2, answers("w7", "w8"))
    assert words(tokenizer, prompts) == [None, "<user> w1 w2 w50 w7 <end> <assistant>"]


def test_what_is_over_the_budget_is_left_out_with_one_warning(tokenizer: Tokenizer, words_data: Any) -> None:
    made = informing(tokenizer, words_data, limit=10)
    with pytest.warns(
        UserWarning, match=r"of 1 of 2 rollouts makes its prompt longer than max_teacher_prompt_tokens=10"
    ):
        prompts = made.prompts([example("a"), example("b")], answers("w8", "w8 w8"))
    assert [prompt is None for prompt in prompts] == [False, True]
    assert made.shares["feedback/informed"] == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.prompts([example("b")], answers("w8 w8"))


def test_an_answer_that_the_tokenizer_cannot_write_as_text_is_not_told(tokenizer: Tokenizer, words_data: Any) -> None:
    class Odd(Words):
        def feedback(self, response: str, reference: Any) -> str:
            return "<end>"

    assert informing(tokenizer, words_data, Odd()).prompts([example("a")], answers("w8")) == [None]


def test_the_grader_is_that_of_the_new_task(tokenizer: Tokenizer, words_data: Any) -> None:
    made = Informing(tokenizer, PARTS, 32)
    with pytest.raises(DataError, match="without a data module nothing says which answers are right"):
        made.prompts([example("a")], answers("w8"))
    prior = EvaluationSet([example("a")], {"prior": ExactMatch()}, prior=True)
    with pytest.raises(DataError, match="WordsDataModule grades nothing new"):
        made.take_grader(words_data(validation=[prior]))
    made.take_grader(words_data(validation=[prior], test=[EvaluationSet([example("a")], {"new": Words()})]))
    assert made.prompts([example("a")], answers("w9")) == [None]


def test_a_right_attempt_is_not_told_of(tokenizer: Tokenizer, words_data: Any) -> None:
    told = informing(tokenizer, words_data, parts=("{prompt}", " w51 {attempt}"))
    right, wrong = told.prompts([example("a"), example("b")], answers("w7", "w8"))
    assert right is None
    assert wrong == token_ids("<user> w1 w2 w51 w8 <end> <assistant>")
