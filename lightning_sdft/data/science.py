"""Science: multiple-choice questions of SciKnowEval [2], chemistry, level L3, as used in [1].

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
    [2] Feng et al., *SciKnowEval: Evaluating Multi-level Scientific Knowledge of Large Language Models*, 2024,
        https://arxiv.org/abs/2406.09098
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_sdft.data.conversations import conversation
from lightning_sdft.data.row_module import RowDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.data.tables import Row, take
from lightning_sdft.errors import DataError
from lightning_sdft.grading.answer_tag import LETTERS, AnswerFormat, AnswerTag, final_answer
from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Example, Message, text_of
from lightning_sdft.settings import Fraction

__all__ = ["SCIENCE_SYSTEM_PROMPT", "ScienceDataModule", "science_question"]

SCIENCE_SYSTEM_PROMPT = """
Given a question and four options, please select the right answer. Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>

For the answer, only output the letter corresponding to the correct option (A, B, C, or D), and nothing else. \
Do not restate the answer text. For example, if the answer is "A", just output:
<answer>
A
</answer>
"""
"""The system turn of the published data, including the line breaks at both ends."""

STEP_BY_STEP = "\nPlease reason step by step."
"""A sentence that other prepared versions of the data append to the question."""

FOUR_CHOICES = "mcq-4-choices"
OPTION_MARKS = ("\n\nA: ", "\nB: ", "\nC: ", "\nD: ")


def science_question(question: str, options: Sequence[str]) -> str:
    """Write your own question in the format of the published data's user turns.

    Args:
        question: The question.
        options: Four answers, one of which is correct.

    Raises:
        DataError: If there are not four options.

    Example:
        >>> print(science_question("Which is an acid?", ["HCl", "NaOH", "NaCl", "KOH"]))
        Which is an acid?
        <BLANKLINE>
        A: HCl
        B: NaOH
        C: NaCl
        D: KOH
    """
    if len(options) != len(LETTERS):
        raise DataError(f"{count_text(len(options), 'option')} instead of four ({', '.join(LETTERS)}); give four")
    return question + "".join(mark + option for mark, option in zip(OPTION_MARKS, options, strict=True))


class ScienceDataModule(RowDataModule):
    """Questions with four options, graded as published (``science``) and by format (``science_format``).

    Each source may hold rows in any of these formats, which are recognized by their columns:

    * SciKnowEval as published, on the hub ``hicai-zju/SciKnowEval:Chemistry@<revision>``: ``question``, ``choices``,
      ``answerKey``, ``type``, ``details``. Questions of other types and levels are left out.
    * As prepared for [1]: ``messages`` and ``output_text`` for training, ``prompt`` (messages) and ``answer`` for
      evaluation.
    * As prepared for SDPO: ``system``, ``prompt`` (text) and ``answer``; the closing request to reason step by step is
      removed, because the prompts of [1] do not have it.
    * As written by ``lightning-sdft demonstrate``: ``id``, ``prompt`` (messages), ``reference`` and ``response``.

    The rows of SciKnowEval and SDPO have no demonstrations, which training needs: sample some with ``lightning-sdft
    demonstrate``, or add a column ``output_text`` or ``response``.

    The public files overlap: 268 of SDPO's training rows and 29 of its test rows are among the 507 evaluation questions
    of [1], so do not train on SDPO's rows and evaluate on those of [1]. A warning gives the number of questions that
    are both trained on and evaluated; options are ignored when questions are compared.

    Args:
        train: File, folder or hub id of the training rows; see :func:`~lightning_sdft.data.tables.read_rows`.
        validation: The same for rows evaluated during training.
        test: The same for rows evaluated by ``test`` and ``predict``.
        validation_share: Share of the training questions held out for validation; by default 0.05 as in [1] if neither
            ``validation`` nor ``test`` is given, and 0 otherwise.
        test_share: Share of the training questions held out for the test; by default 0.2 if neither is given, and 0
            otherwise.
        level: Level of the questions used from SciKnowEval as published, from ``L1`` to ``L5``.
        **kwargs: See :class:`RowDataModule`.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        validation_share: Fraction | None = None,
        test_share: Fraction | None = None,
        level: str = "L3",
        **kwargs: Any,
    ) -> None:
        undivided = train is not None and validation is None and test is None
        super().__init__(
            train=train,
            validation=validation,
            test=test,
            validation_share=(0.05 if undivided else 0.0) if validation_share is None else validation_share,
            test_share=(0.2 if undivided else 0.0) if test_share is None else test_share,
            **kwargs,
        )
        self.level = level

    def example(self, row: Row, where: str, name: str, trained: bool) -> Example | None:
        """Make an example of a row; ``None`` for a question of another type or level."""
        if "choices" in row:
            if not self._is_wanted(row, where):
                return None
            prompt = _published_prompt(row, where)
        else:
            prompt = _prepared_prompt(row, where)
            name = take(row, "id", str, where) if "id" in row else name
        demonstration = _demonstration(row, where)
        answer = _answer(row, demonstration, where)
        if answer not in LETTERS:
            raise DataError(f"{where}: the answer {answer!r} is none of {', '.join(LETTERS)}; correct the row")
        return Example(name, prompt, demonstration, reference=answer)

    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Combine examples with the published grader and the grader of the format."""
        return EvaluationSet(examples, {"science": AnswerTag(), "science_format": AnswerFormat()})

    def question(self, example: Example) -> str:
        """What an example asks, without the options, so that other options do not make another question."""
        asked, _, _ = text_of(example.prompt[-1]["content"]).partition(OPTION_MARKS[0])
        return " ".join(asked.split())

    def _is_wanted(self, row: Row, where: str) -> bool:
        level = take(take(row, "details", dict, where), "level", str, f"{where}, 'details'")
        same_level = level.replace("-", "") == self.level.replace("-", "")  # L3 is also written L-3
        return same_level and take(row, "type", str, where) == FOUR_CHOICES


def _published_prompt(row: Row, where: str) -> list[Message]:
    """The prompt of a row of SciKnowEval."""
    question = take(row, "question", str, where)
    choices = take(row, "choices", dict, where)
    labels, texts = (take(choices, key, list, f"{where}, 'choices'") for key in ("label", "text"))
    if not question.strip():
        raise DataError(f"{where}: column 'question' is empty; correct the row")
    if labels != list(LETTERS) or len(texts) != len(LETTERS):
        raise DataError(f"{where}: {count_text(len(texts), 'option')} with the labels {labels} instead of A, B, C, D")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{where}: an option of {texts} is empty or no text; correct the row")
    return _turns(SCIENCE_SYSTEM_PROMPT, science_question(question, texts))


def _prepared_prompt(row: Row, where: str) -> list[Message]:
    """The prompt of a row that contains it in full."""
    column = "messages" if "messages" in row else "prompt"
    if isinstance(row.get(column), str):
        prompt = _turns(take(row, "system", str, where), take(row, column, str, where).removesuffix(STEP_BY_STEP))
    else:
        prompt = conversation(row, column, where)
    _check_options(prompt, where)
    return prompt


def _answer(row: Row, demonstration: str | None, where: str) -> str:
    """The letter of the correct option."""
    given = [column for column in ("answerKey", "reference", "answer") if column in row]
    if not given and demonstration is not None:
        return final_answer(demonstration)  # demonstrations were kept only if their answer was correct
    expected = "output_text" if "messages" in row else "answer"
    return take(row, given[0] if given else expected, str, where)


def _turns(system: str, question: str) -> list[Message]:
    return [Message(role="system", content=system), Message(role="user", content=question)]


def _demonstration(row: Row, where: str) -> str | None:
    column = "output_text" if "output_text" in row else "response"
    if row.get(column) is None:
        return None
    demonstration = take(row, column, str, where)
    if not demonstration.strip():
        raise DataError(f"{where}: column {column!r} is empty; leave the row out")
    return demonstration


def _check_options(prompt: Sequence[Message], where: str) -> None:
    position = 0
    for letter, mark in zip(LETTERS, OPTION_MARKS, strict=True):
        position = text_of(prompt[-1]["content"]).find(mark, position) if prompt else -1
        if position < 0:
            raise DataError(f"{where}: the question has no option {letter}; it must end in lines from 'A: ' to 'D: '")
