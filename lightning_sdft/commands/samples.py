"""Samples responses from a chat model to questions whose right answer is known."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.chat.journal import Journal
from lightning_sdft.chat.local import LocalChat
from lightning_sdft.data.tables import take
from lightning_sdft.grading.base import Grader
from lightning_sdft.progress import Work
from lightning_sdft.records import Example

__all__ = ["Accepted", "Samples"]


@dataclass(frozen=True)
class Accepted:
    """A response that the graders accept.

    Args:
        response: The response.
        number: The number of this sample among those of its question, counted from 1.
    """

    response: str
    number: int


class Samples:
    """Samples of one chat model, and of others that were asked before, each saved in a journal at once.

    A record of the journal holds ``key`` (a hash of the prompt), ``id`` (of the first example with this prompt),
    ``model`` and ``response``. Examples with the same prompt share their samples. The journal holds no verdicts, so
    that a corrected grader or reference can grade the samples again without paying for them again.

    Args:
        chat: The chat model to ask.
        graders: The graders; a response is right if all of them accept it.
        journal: File of the journal.
        limit: How often the model is asked for each prompt, in this run and earlier ones together.

    Attributes:
        ungraded: Ids of examples with a sample that could not be graded; they are not sampled again in this run.

    Raises:
        ChatError: If several samples are wanted from a model that always gives the same reply.
        DataError: If the journal cannot be read.
    """

    def __init__(self, chat: ChatModel, graders: Sequence[Grader], journal: Path, limit: int) -> None:
        if limit > 1:
            chat.check_varied(f"the {limit} samples of a question", "samples")
        self.chat = chat
        self.graders = graders
        self.journal = Journal(journal)
        self.limit = limit
        self.ungraded: set[str] = set()
        self._seed = chat.seed if isinstance(chat, LocalChat) else 0
        self._responses: dict[str, list[str]] = defaultdict(list)
        self._asked: Counter[str] = Counter()
        self._listed: set[tuple[str, str, int]] = set()
        for number, record in enumerate(self.journal.records(), start=1):
            where = f"{journal}, row {number}"
            key, model = (take(record, column, str, where) for column in ("key", "model"))
            if "never_right" in record:
                self._listed.add((key, model, take(record, "never_right", int, where)))
            else:
                self._add(key, model, take(record, "response", str, where))

    def accepted(self, examples: Sequence[Example]) -> dict[str, Accepted]:
        """Find the first right response to each example, sampling until there is one or the limit is reached.

        In each round the model gives one more response to every prompt that has no right response yet, in parallel.

        Args:
            examples: Examples with references and unique ids.

        Returns:
            Maps an example id to its response, for examples with a right one.

        Raises:
            ChatError: If the model cannot be used at all. Its earlier replies are kept.
        """
        found: dict[str, Accepted] = {}
        seen: Counter[str] = Counter()
        self._grade(examples, found, seen)
        for number in range(1, self.limit + 1):
            wanting = [example for example in examples if example.id not in found and example.id not in self.ungraded]
            asked = {_key(example): example for example in reversed(wanting)}  # the first one with each prompt
            self._draw({key: asked[key] for key in reversed(asked) if self._asked[key] < number}, number)
            self._grade(wanting, found, seen)
        return found

    def never_right(self, examples: Sequence[Example]) -> list[Example]:
        """Those of the examples without a right response whose samples have reached the limit and were all graded.

        The journal gets a record for each, with ``never_right``, the number of samples.
        """
        exhausted = [
            example
            for example in examples
            if self._asked[_key(example)] >= self.limit and example.id not in self.ungraded
        ]
        for example in exhausted:
            listed = (_key(example), self.chat.name, self.limit)
            if listed not in self._listed:
                self._listed.add(listed)
                key, model, number = listed
                self.journal.append({"key": key, "id": example.id, "model": model, "never_right": number})
        return exhausted

    def _draw(self, examples: dict[str, Example], number: int) -> None:
        """Ask for one sample for each prompt."""
        keys, asked = list(examples), list(examples.values())

        work = Work(f"sample {number} of {self.limit}", len(asked), "replies")

        def keep(index: int, response: str) -> None:
            key, model = keys[index], self.chat.name
            self.journal.append({"key": key, "id": asked[index].id, "model": model, "response": response})
            self._add(key, model, response)
            work.advance()

        if isinstance(self.chat, LocalChat):
            self.chat.seed = self._seed + number  # otherwise a new process would repeat the samples of the one before
        with work:
            self.chat.reply([example.prompt for example in asked], keep)

    def _add(self, key: str, model: str, response: str) -> None:
        self._responses[key].append(response)
        self._asked[key] += model == self.chat.name

    def _grade(self, examples: Sequence[Example], found: dict[str, Accepted], seen: Counter[str]) -> None:
        """Grade the responses that came since the last call, and keep the first right one for each example."""
        new = [
            (example, number, response)
            for example in examples
            for number, response in enumerate(self._responses[_key(example)], start=1)
            if number > seen[example.id]
        ]
        responses, references = [each[2] for each in new], [each[0].reference for each in new]
        verdicts = [grader.grade_all(responses, references) for grader in self.graders]
        for (example, number, response), *given in zip(new, *verdicts, strict=True):
            seen[example.id] = number
            if False in given:
                continue
            if None in given:
                self.ungraded.add(example.id)
            elif example.id not in found:
                found[example.id] = Accepted(response, number)


def _key(example: Example) -> str:
    """A hash that identifies the prompt."""
    text = json.dumps([[turn["role"], turn["content"]] for turn in example.prompt])
    return hashlib.sha256(text.encode()).hexdigest()
