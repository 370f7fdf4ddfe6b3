"""Rollouts in a terminal: coloured, and as plain text in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lightning_sdft.inspection.records import Candidate, RolloutLook, TokenLook
from lightning_sdft.inspection.visible import level, visible
from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Message, text_of

__all__ = ["rendered"]

SHADES = (
    "",
    "#000000 on #fbe3e6",
    "#000000 on #f8c5cb",
    "#000000 on #f4a3ad",
    "#000000 on #ee6677",
    "#ffffff on #b0304a",
)
"""Styles by how far the teacher is from the student; they set both colours, to be read on any background."""

NEWLINE = "\\n"
"""A newline in a cell."""

SPACE = "\u2423"
"""A space in a cell."""

LEAST = 0.005
"""Probability of a candidate that is worth its place; the others would be 0.00."""

MOST = 40
"""Tokens in a table; of longer rollouts, those with the highest KL."""


def rendered(looks: Sequence[RolloutLook], temperature: float) -> Iterator[RenderableType]:
    """What to print, block by block. Texts are printed as they are: neither control characters nor markup act."""
    yield Text(
        f"KL(teacher || student) in nats a token; probabilities are at the temperature of the loss, {temperature:g}; "
        f"tokens in brackets are left out of the loss, {SPACE} is a space, and likely tokens of less than {LEAST} are "
        "not shown"
    )
    for look in looks:
        yield Rule(Text(visible(look.id, newline=" ")), align="left")
        yield _conversation("student sees", look.prompt)
        yield _conversation("teacher sees", look.shown)
        for name, answer in look.answers.items():
            yield Text(f"{name}{'' if answer.finished else ' (cut)'}:", style="bold")
            yield Padding(Text(visible(answer.text)), (0, 0, 0, 2))
        length = count_text(len(look.tokens), "token")
        yield Text(f"trained on: {look.trained_on}, {length}, KL {look.mean_kl:.3f} nats a token")
        yield Padding(_line(look.tokens), (0, 0, 0, 2))
        yield _table(look.tokens)


def _conversation(title: str, messages: Sequence[Message]) -> Text:
    text = Text()
    text.append(f"{title}:\n", style="bold")
    for index, each in enumerate(messages):
        text.append("\n" if index else "")
        text.append(f"{visible(each['role'])}: ", style="italic")
        text.append(visible(text_of(each["content"])))
    return text


def _line(tokens: Sequence[TokenLook]) -> Text:
    """The rollout, shaded."""
    line = Text()
    for token in tokens:
        line.append(visible(token.text), style=SHADES[level(token.kl)])
    return line


def _table(tokens: Sequence[TokenLook]) -> Table:
    shown = sorted(sorted(range(len(tokens)), key=lambda index: -tokens[index].kl)[:MOST])
    title = None if len(shown) == len(tokens) else f"{MOST} of {len(tokens)} tokens, those with the highest KL"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "token", "KL", "H student", "H teacher"):
        table.add_column(column, justify="left" if column == "token" else "right", no_wrap=True)
    table.add_column("student: likeliest next", ratio=1)
    table.add_column("teacher: likeliest next", ratio=1)
    for index in shown:
        token = tokens[index]
        text = _quoted(token.text)
        name = Text(text if token.trained else f"[{text}]", style=SHADES[level(token.kl)])
        numbers = (f"{token.kl:.3f}", f"{token.student_entropy:.2f}", f"{token.teacher_entropy:.2f}")
        table.add_row(str(index + 1), name, *numbers, _candidates(token.student), _candidates(token.teacher))
    return table


def _candidates(candidates: Sequence[Candidate]) -> Text:
    shown = [each for each in candidates if each.probability >= LEAST]
    return Text(" ".join(f"{_quoted(each.text)}={each.probability:.2f}" for each in shown))


def _quoted(text: str) -> str:
    """A token in a cell, which is not broken at its spaces."""
    return f"'{visible(text, newline=NEWLINE).replace(' ', SPACE)}'"
