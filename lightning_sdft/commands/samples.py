"""Responses sampled from a chat model for questions whose right answer is known."""

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
from lightning_sdft.records import Example

__all__ = ["Accepted", "Samples"]


@dataclass(frozen=True)
class Accepted:
    """A response that the graders accept.

    Args:
        response: The response.
        number: Which sample of its question it is, counted from 1.
    """

    response: str
    number: int


class Samples:
    """Samples of one chat model, and of others that were asked before, each kept in a journal as soon as it is there.

    A record of the journal holds ``key`` (a hash of the prompt), ``id`` (of the first example with this prompt),
    ``model`` and ``response``. Examples with the same prompt share their samples. Verdicts are not kept, so that a
    corrected grader or reference looks at what was paid for again.

    Args:
        chat: Who is asked.
        graders: Say which responses are right: those that all of them accept.
        journal: File of the journal.
        limit: How often the model is asked for each prompt, in this run and those before together.

    Attributes:
        ungraded: Ids of examples with a sample that could not be graded; they are not sampled again in this run.

    Raises:
        ChatError: If several samples are asked for of a model that always says the same.
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
        """Find the first right response to each example, sampling as long as there is none.

        In each round, all prompts that are still without a right response are asked for one more sample, side by side.

        Args:
            examples: Examples with references and unique ids.

        Returns:
            Example id to response, for those that have a right one.

        Raises:
            ChatError: If the model cannot be used at all. What it replied before is kept.
        """
        found: dict[str, Accepted] = {}
        seen: Counter[str] = Counter()
        self._grade(examples, found, seen)
        for number in range(1, self.limit + 1):
            wanting = [example for example in examples if example.id not in found and example.id not in self.ungraded]
            asked = {_key(example): example for example in reversed(wanting)}  # the first of several with this prompt
            self._draw({key: asked[key] for key in reversed(asked) if self._asked[key] < number}, number)
            self._grade(wanting, found, seen)
        return found

    def never_right(self, examples: Sequence[Example]) -> list[Example]:
        """Those of the examples without a right response that were sampled as often as asked for, all of them graded.

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

        def keep(index: int, response: str) -> None:
            key, model = keys[index], self.chat.name
            self.journal.append({"key": key, "id": asked[index].id, "model": model, "response": response})
            self._add(key, model, response)

        if isinstance(self.chat, LocalChat):
            self.chat.seed = self._seed + number  # or a new process would draw the samples of the one before again
        self.chat.reply([example.prompt for example in asked], keep)

    def _add(self, key: str, model: str, response: str) -> None:
        self._responses[key].append(response)
        self._asked[key] += model == self.chat.name

    def _grade(self, examples: Sequence[Example], found: dict[str, Accepted], seen: Counter[str]) -> None:
        """Look at what came since the last time, and note the first right response to each example."""
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
    """A name for the prompt."""
    text = json.dumps([[turn["role"], turn["content"]] for turn in example.prompt])
    return hashlib.sha256(text.encode()).hexdigest()
