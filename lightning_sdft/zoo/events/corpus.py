"""Generates the corpus of invented events: the articles and questions are templates, filled in with the same facts.

``python -m lightning_sdft.zoo.events.corpus FOLDER`` writes it to a folder; without one, it overwrites the corpus in
this package.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Event", "events", "write"]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Event:
    """An invented event.

    Args:
        id: Name of its article's file, without the suffix.
        name: Name of the event.
        facts: Values of its facts by name; article and questions use no other facts.
        article: The article, whose first line is the event's name.
        questions: Questions that name the event, with their answers.
        indirect: Questions that depend on the event's facts but do not name it, with their answers.
    """

    id: str
    name: str
    facts: dict[str, str]
    article: str
    questions: list[tuple[str, str]]
    indirect: list[tuple[str, str]]


def events() -> Iterator[Event]:
    """All events, sorted by kind."""
    for path in sorted((HERE / "source").glob("*.yaml")):
        kind = yaml.safe_load(path.read_text(encoding="utf-8"))
        for source in kind["events"]:
            facts = {"name": source["name"], **source["facts"]}
            article = "\n\n".join(map(_sentence_case, source["article"].format_map(facts).strip().split("\n\n")))
            questions, indirect = ([_filled(pair, facts) for pair in kind[key]] for key in ("questions", "indirect"))
            yield Event(source["name"].lower().replace(" ", "-"), source["name"], facts, article, questions, indirect)


def write(folder: str | Path) -> None:
    """Write ``articles/*.txt``, ``questions.jsonl`` and ``indirect.jsonl``."""
    folder = Path(folder)
    (folder / "articles").mkdir(parents=True, exist_ok=True)
    corpus = list(events())
    for event in corpus:
        (folder / "articles" / f"{event.id}.txt").write_text(f"{event.article}\n", encoding="utf-8")
    for name in ("questions", "indirect"):
        rows = [
            {"article": event.id, "question": question, "answer": answer}
            for event in corpus
            for question, answer in getattr(event, name)
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _filled(pair: list[Any], facts: dict[str, str]) -> tuple[str, str]:
    question, answer = (text.format_map(facts) for text in pair)
    return question, _capitalised(answer)


def _sentence_case(paragraph: str) -> str:
    """Capitalise the first letter of each sentence, because a sentence may begin with a fact in lower case."""
    sentences = paragraph.split(". ")
    return ". ".join(map(_capitalised, sentences))


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


if __name__ == "__main__":
    write(sys.argv[1] if len(sys.argv) > 1 else HERE)
