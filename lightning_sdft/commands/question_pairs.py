"""Reads questions and answers from the reply of a chat model, and leaves out those that repeat others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_sdft.grading.contains import plain_words

__all__ = ["Distinct", "Pair", "Parsed", "parse_pairs"]

MARK = re.compile(
    r"[\s>#*_\-\u2022]{0,20}(?:\(?\d{1,4}[.):\]]{0,3}\s{0,4})?[*_]{0,3}"
    r"(question|answer)\b[\s#]{0,4}\d{0,4}[.)]?\s{0,4}[*_]{0,3}\s{0,4}[:\uff1a][*_]{0,3}(.*)",
    re.IGNORECASE,
)
"""A line that begins a question or an answer: numbering and Markdown around the word are tolerated."""

BETWEEN = re.compile(r"\s{0,20}#{1,6}\s.*|\s{0,20}\*\*[^*]*\*\*:?\s*|[\W_]*(?:\d{1,4}[.):][\W_]*)?")
"""A line that may stand between questions: a heading, a rule, a number, nothing."""

SENTENCE_ENDS = (".", "!", "?", ")", '"', "'", "\u201d", "\u2019", "\u00bb")


@dataclass(frozen=True)
class Pair:
    """A question with its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Parsed:
    """The questions in a reply.

    Args:
        pairs: The questions that can be used.
        lost: Number of those that cannot be used: question or answer is missing, doubtful or perhaps cut off.
    """

    pairs: list[Pair]
    lost: int


def parse_pairs(reply: str, asked_for: int) -> Parsed:
    r"""Read the questions and answers of a reply; see ``lightning-sdft questions`` for what is left out.

    Args:
        reply: The reply.
        asked_for: Number of questions that were asked for.

    Example:
        >>> parse_pairs("1. **Question:** Who?\n**Answer:** She.\n2. **Question:** Whe", 2)
        Parsed(pairs=[Pair(question='Who?', answer='She.')], lost=1)
    """
    blocks: list[tuple[str, list[str]]] = []
    for line in reply.splitlines():
        mark = MARK.fullmatch(line)
        if mark:
            blocks.append((mark[1].lower(), [mark[2]]))
        elif blocks:
            blocks[-1][1].append(line)
    count = sum(kind == "question" for kind, _ in blocks)
    found: list[Pair | None] = []
    for index, (kind, lines) in enumerate(blocks):
        follows = index > 0 and blocks[index - 1][0] == "question"
        if kind == "answer":
            found.append(_pair(blocks[index - 1][1], lines) if follows else None)
        elif index + 1 == len(blocks) or blocks[index + 1][0] == "question":
            found.append(None)
    last = found[-1] if found else None
    if last is not None and count < asked_for and not last.answer.endswith(SENTENCE_ENDS):
        found[-1] = None
    pairs = [pair for pair in found if pair is not None]
    return Parsed(pairs, len(found) - len(pairs))


class Distinct:
    """Collects questions, and leaves out those that repeat another one.

    Args:
        similarity: See ``lightning-sdft questions``.

    Attributes:
        kept: Article and pair, in the order in which they came.
        same: Number of questions left out because another one, on whatever article, has the same words.
        similar: Number of questions left out because one on the same article has nearly the same words.
    """

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self.kept: list[tuple[str, Pair]] = []
        self.same = 0
        self.similar = 0
        self._texts: set[str] = set()
        self._words: dict[str, list[set[str]]] = defaultdict(list)

    def add(self, article: str, pairs: Sequence[Pair]) -> None:
        """Keep those of the pairs on an article that are new."""
        for pair in pairs:
            words = plain_words(pair.question)
            text, unordered = " ".join(words), set(words)
            if text in self._texts:
                self.same += 1
            elif any(_overlap(unordered, other) >= self.similarity for other in self._words[article]):
                self.similar += 1
            else:
                self._texts.add(text)
                self._words[article].append(unordered)
                self.kept.append((article, pair))


def _overlap(words: set[str], others: set[str]) -> float:
    """The words in common as a share of all words of the two."""
    return len(words & others) / len(words | others)


def _pair(question_lines: Sequence[str], answer_lines: Sequence[str]) -> Pair | None:
    """The pair, or ``None`` if question or answer is missing or doubtful."""
    question, answer = (_clean(_without_between(lines)) for lines in (question_lines, answer_lines))
    several_paragraphs = re.search(r"\n\s*\n", answer) or "\n" in question
    if several_paragraphs or not plain_words(question) or not plain_words(answer):
        return None
    return None if question.lower() == "question" or answer.lower() == "answer" else Pair(question, answer)


def _without_between(lines: Sequence[str]) -> str:
    """The text of lines, without lines at the end that stand between questions, unless there are no others."""
    kept = list(lines)
    while kept and BETWEEN.fullmatch(kept[-1]):
        kept.pop()
    return "\n".join(line.strip() for line in (kept if "".join(kept).strip() else lines)).strip()


def _clean(text: str) -> str:
    """The text without the Markdown and the angle brackets around it."""
    if text.count("**") % 2:  # one of them is before "Question" or "Answer"
        text = text.removesuffix("**").removeprefix("**")
    if text.count("**") == 2 and text.startswith("**") and text.endswith("**"):
        text = text[2:-2]
    text = text.strip()
    return text[1:-1].strip() if text.startswith("<") and text.endswith(">") else text
