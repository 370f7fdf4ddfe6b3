"""Grades the student's answers, and makes the prompts of a teacher that is told of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_warn

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.data.templates import informed_messages
from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Feedback, Grader
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import Example, Message, Rollout
from lightning_sdft.settings import Count, check_ranges

__all__ = ["Informing", "Told"]


@dataclass(frozen=True)
class Told:
    """What a teacher is told of an answer: a conversation, and its token ids."""

    messages: Sequence[Message]
    tokens: list[int]


class Informing:
    """The part of :class:`SDPOModule` that grades rollouts and words what the teacher is told.

    Args:
        tokenizer: The policy's tokenizer.
        parts: The template of the teacher's user turn.
        max_tokens: Token budget of the teacher's prompt.

    Attributes:
        shares: Of the last rollouts, the shares that were right, and that the teacher was told of.
    """

    def __init__(self, tokenizer: Tokenizer, parts: Sequence[str], max_tokens: Count) -> None:
        check_ranges(Informing, locals())
        self.tokenizer = tokenizer
        self.parts = parts
        self.max_tokens = max_tokens
        self.shares: dict[str, float] = {}
        self._grader: Grader | None = None
        self._warned = False

    def take_grader(self, datamodule: DemonstrationDataModule) -> None:
        """Take the first grader of the new task, as it is validated or tested.

        Raises:
            DataError: If nothing new is graded.
        """
        splits = datamodule.splits
        new = (each for each in (*splits.validation, *splits.test) if each.graders and not each.prior)
        graded = next(new, None)
        if graded is None:
            raise DataError(
                f"{type(datamodule).__name__} grades nothing new, so nothing says which answers are right; give "
                "validation or test rows with references, and data.reference_column"
            )
        self._grader = graded.graders[graded.name]

    @property
    def grader(self) -> Grader:
        """What says which answers are right.

        Raises:
            DataError: If there is none.
        """
        if self._grader is None:
            raise DataError(
                "without a data module nothing says which answers are right; pass datamodule=... to fit, or call "
                "module.informing.take_grader(datamodule)"
            )
        return self._grader

    @property
    def needs_reference(self) -> bool:
        """Whether the grader compares answers with references."""
        return self._grader is not None and self._grader.needs_reference

    def check_references(self, examples: Sequence[Example]) -> None:
        """Refuse references that answers cannot be compared with.

        Raises:
            DataError: If there is one; the message names the example.
        """
        if self._grader is not None and self._grader.needs_reference:
            EvaluationSet(examples, {type(self._grader).__name__: self._grader}).check_references()

    def prompts(self, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> list[list[int] | None]:
        """Token ids of the teacher's prompts; see :meth:`tell`."""
        return [None if each is None else each.tokens for each in self.tell(examples, rollouts)]

    def tell(self, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> list[Told | None]:
        """Grade answers, and word what the teacher is told of them.

        Args:
            examples: The examples, some of them perhaps several times.
            rollouts: An answer of the student to each.

        Returns:
            ``None`` where there is nothing to tell, where the tokenizer cannot write what the student has written, or
            where the prompt is over its budget.

        Raises:
            DataError: If there is no grader.
        """
        answers = [self.tokenizer.answer(each.completion) for each in rollouts]
        found = self.grader.feedback_all(answers, [each.reference for each in examples])
        shown = _shown(examples, answers, found)
        told = [self._encoded(example, each) for example, each in zip(examples, shown, strict=True)]
        over = [each is not None and len(each.tokens) > self.max_tokens for each in told]
        if any(over) and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"what the teacher is told of {sum(over)} of {len(over)} rollouts makes its prompt longer than "
                f"max_teacher_prompt_tokens={self.max_tokens}: they are not learned from, here and later; raise it, or "
                "leave {attempt} out of teacher_template"
            )
        kept = [None if much else each for each, much in zip(told, over, strict=True)]
        self.shares = {
            "feedback/right": sum(each.correct is True for each in found) / len(found),
            "feedback/informed": sum(each is not None for each in kept) / len(kept),
        }
        return kept

    def _encoded(self, example: Example, shown: dict[str, str]) -> Told | None:
        messages = informed_messages(example, self.parts, shown)
        try:
            return None if messages is None else Told(messages, self.tokenizer.encode(messages))
        except DataError:  # a control token in the student's own words, which this tokenizer cannot write as text
            return None


def _shown(examples: Sequence[Example], answers: Sequence[str], found: Sequence[Feedback]) -> list[dict[str, str]]:
    """What the teacher is shown of each rollout: a right answer, and what is wrong with a wrong attempt."""
    right: defaultdict[str, list[int]] = defaultdict(list)
    for index, (example, each) in enumerate(zip(examples, found, strict=True)):
        if each.correct:
            right[example.id].append(index)
    shown = []
    for index, (example, each) in enumerate(zip(examples, found, strict=True)):
        sibling = next((answers[other] for other in right[example.id] if other != index), "")
        attempt = answers[index] if each.correct is False else ""
        texts = {"demonstration": example.demonstration or sibling, "sibling": sibling}
        shown.append({**texts, "attempt": attempt, "feedback": each.message})
    return shown
