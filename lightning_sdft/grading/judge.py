"""Grading by a language model, which compares each answer with a reference answer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.chat.journal import process_journal, process_records
from lightning_sdft.chat.local import LocalChat
from lightning_sdft.errors import ChatError, DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.judge_prompts import PROMPTS, JudgePrompt
from lightning_sdft.grading.references import alternatives, text_of
from lightning_sdft.policy import Policy
from lightning_sdft.progress import Work
from lightning_sdft.records import Message
from lightning_sdft.settings import Count, check_ranges

__all__ = ["Judge", "JudgedAnswer", "LocalJudge", "judged_responses", "question_and_answer"]

log = logging.getLogger(__name__)

RESPONSES, VERDICTS = "responses", "verdicts"
"""Names of the files in a judge's folder."""

KEPT_OF_REPLY = 1000
"""Number of characters of a judge's reply that are stored along with the label."""


class Judge:
    """A chat model that labels answers, for example as correct or incorrect.

    Responses are written to ``responses.jsonl`` in the folder before the judge is asked, and verdicts to
    ``verdicts.jsonl`` as they arrive. The judge is not asked again for a verdict that is already there for the same
    judge, question, reference and response, whether by a second grader or by a run that was killed and restarted. With
    several processes, each judges its share and writes its own files, with ``.rank<n>`` before the suffix.

    An answer gets no label if the judge did not reply, or if no reply consisted of just a label. The judge is not asked
    about such answers again until :meth:`forget_failures`, or later by ``lightning-sdft judge``.

    A deep copy of a judge is the judge itself, so that graders share its verdicts.

    Args:
        chat: The chat model that judges.
        prompt: The prompt for the judge, or the name of one of the paper's prompts.
        folder: Folder for responses and verdicts; by default they are kept only in memory and lost with the process.
        attempts: How often to ask about an answer until the reply consists of just a label.

    Raises:
        SettingError: If ``attempts`` is less than 1.
    """

    def __init__(
        self,
        chat: ChatModel,
        prompt: JudgePrompt | Literal["medical", "knowledge"],
        folder: str | None = None,
        attempts: Count = 3,
    ) -> None:
        check_ranges(Judge, locals())
        self.chat = chat
        self.prompt = PROMPTS[prompt] if isinstance(prompt, str) else prompt
        self.folder = None if folder is None else Path(folder)
        self.attempts = attempts
        self._verdicts: dict[str, str] = {}
        self._failed: set[str] = set()
        self._kept: set[str] | None = None
        self._has_replied = False

    def labels(
        self, questions: Sequence[str], references: Sequence[str], responses: Sequence[str], progress: bool = False
    ) -> list[str | None]:
        """Label each response.

        Args:
            questions: The questions.
            references: The correct answers.
            responses: The answers to judge.
            progress: Whether to show how far it is.

        Returns:
            For each response one of the prompt's labels; ``None`` if there is no verdict.

        Raises:
            ChatError: If the judge cannot be used at all and has never replied to this process. If it has replied
                before, the error is only logged: the missing verdicts can be obtained later.
        """
        triples = list(zip(questions, references, responses, strict=True))
        prompts = [self.prompt.fill(*triple) for triple in triples]
        keys = [_digest(self.chat.name, prompt) for prompt in prompts]
        if self.folder is not None:
            self._keep_responses(self.folder, triples)
            if not self._verdicts.keys() >= set(keys):
                self._verdicts |= self._verdicts_on_disk(self.folder)
        known = self._verdicts.keys() | self._failed
        self._ask({key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}, progress)
        return [self._verdicts.get(key) for key in keys]

    def forget_failures(self) -> None:
        """Forget which answers got no verdict, so that the judge is asked about them again."""
        self._failed.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Judge:
        """Return the judge itself."""
        return self

    def _ask(self, prompts: Mapping[str, str], progress: bool) -> None:
        """Ask for verdicts, up to ``attempts`` times for each answer."""
        unlabelled = list(prompts)
        try:
            for attempt in range(1, self.attempts + 1):
                if not unlabelled:
                    break
                asked, unlabelled = unlabelled, []
                conversations: list[list[Message]] = [[{"role": "user", "content": prompts[key]}] for key in asked]
                with Work(f"judge, attempt {attempt}", len(asked), "replies", shown=progress) as work:
                    self.chat.reply(conversations, partial(self._hear, asked, unlabelled, work))
        except ChatError as error:
            if not self._has_replied:
                raise
            log.error("the judge %s cannot be used any more: %s", self.chat.name, error)
        failed = prompts.keys() - self._verdicts.keys()
        if failed:
            self._failed |= failed
            log.warning(
                "no verdict of %s on %d of %d answers, which count neither as correct nor as wrong%s",
                self.chat.name,
                len(failed),
                len(prompts),
                "" if self.folder is None else f"; ask again by `lightning-sdft judge --responses {self.folder}`",
            )

    def _hear(self, keys: Sequence[str], unlabelled: list[str], work: Work, index: int, reply: str) -> None:
        """Store a reply and its label."""
        work.advance()
        self._has_replied = True
        key, label = keys[index], self.prompt.label(reply)
        if self.folder is not None:
            record = {"key": key, "judge": self.chat.name, "label": label, "reply": reply[:KEPT_OF_REPLY]}
            process_journal(self.folder, VERDICTS).append(record)
        if label is None:
            unlabelled.append(key)
        else:
            self._verdicts[key] = label

    def _verdicts_on_disk(self, folder: Path) -> dict[str, str]:
        records = process_records(folder, VERDICTS)
        return {record["key"]: record["label"] for record in records if record["label"] is not None}

    def _keep_responses(self, folder: Path, triples: Sequence[tuple[str, str, str]]) -> None:
        if self._kept is None:
            self._kept = {record.get("key", "") for record in process_records(folder, RESPONSES)}
        new = {key: triple for triple in triples if (key := _digest(*triple)) not in self._kept}
        process_journal(folder, RESPONSES).extend(
            {"key": key, "response": response, "reference": {"question": question, "answer": answer}}
            for key, (question, answer, response) in new.items()
        )
        self._kept.update(new)


class LocalJudge(Judge):
    """A judge that runs in this process and decodes greedily.

    The model is loaded on first use. It is not part of the module that is trained.

    Args:
        model: A Hugging Face folder or hub id, a ``.gguf`` file, or a policy.
        prompt: See :class:`Judge`.
        folder: See :class:`Judge`.
        max_tokens: Maximum number of tokens in a reply, which is only a label.
        batch_size: Number of answers judged at once.
        template_arguments: See :class:`LocalChat`.
    """

    def __init__(
        self,
        model: str | Policy,
        prompt: JudgePrompt | Literal["medical", "knowledge"],
        folder: str | None = None,
        max_tokens: Count = 16,
        batch_size: Count = 16,
        template_arguments: dict[str, Any] | None = None,
    ) -> None:
        chat = LocalChat(model, max_tokens=max_tokens, batch_size=batch_size, template_arguments=template_arguments)
        super().__init__(chat, prompt, folder, attempts=1)  # greedy: it would reply the same again


class JudgedAnswer(Grader):
    """Share of answers that get an accepted label from a judge; an answer without a verdict is not graded.

    The reference is ``{"question": text, "answer": text}``. Instead of a text the answer may be a number, a date, or a
    list of alternatives, which the judge reads with "or" between them. Further graders that accept other labels of the
    same judge, such as ``("CORRECT", "PARTIALLY_CORRECT")`` for lenient accuracy, need no further replies.

    Args:
        judge: The judge.
        accepts: Labels that count as correct.

    Raises:
        DataError: If ``accepts`` is empty, or the judge's prompt does not have one of the labels.
    """

    asks_a_model = True
    needs_question = True

    def __init__(self, judge: Judge, accepts: Sequence[str] = ("CORRECT",)) -> None:
        super().__init__()
        unknown = [label for label in accepts if label not in judge.prompt.labels]
        if unknown or not accepts:
            raise DataError(f"accepts={list(accepts)} must be among the labels of the judge, {judge.prompt.labels}")
        self.judge = judge
        self.accepts = frozenset(accepts)

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference without question and answer."""
        question_and_answer(reference)

    def grade(self, response: str, reference: Any) -> bool | None:
        """Whether the judge accepts a response."""
        return self.grade_all([response], [reference])[0]

    def grade_all(self, responses: Sequence[str], references: Sequence[Any]) -> list[bool | None]:
        """Whether the judge accepts each response; it is asked about all of them together."""
        pairs = [question_and_answer(reference) for reference in references]
        labels = self.judge.labels([pair[0] for pair in pairs], [pair[1] for pair in pairs], responses)
        return [None if label is None else label in self.accepts for label in labels]

    def reset(self) -> None:
        """Begin a new evaluation, in which the judge is asked again about answers without a verdict."""
        super().reset()
        self.judge.forget_failures()


def question_and_answer(reference: Any) -> tuple[str, str]:
    """The question and the answer in the reference of a judged answer.

    Raises:
        DataError: If the reference has no question or no answer.
    """
    if isinstance(reference, Mapping):
        question, answers = reference.get("question"), alternatives(reference.get("answer"))
        if isinstance(question, str) and answers and not any(isinstance(each, Mapping) for each in answers):
            return question, " or ".join(each if isinstance(each, str) else text_of(each) for each in answers)
    raise DataError(f'a judge needs a reference like {{"question": text, "answer": text}}, not {reference!r}')


def judged_responses(folder: Path) -> list[dict[str, Any]]:
    """The distinct responses of all processes in a judge's folder: records with ``response`` and ``reference``."""
    different = {json.dumps(record, sort_keys=True): record for record in process_records(folder, RESPONSES)}
    return list(different.values())


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
