"""Rollouts as HTML, for Jupyter and for a page of their own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lightning_sdft.inspection.records import Candidate, RolloutLook, TokenLook
from lightning_sdft.inspection.visible import LEVELS, level, visible
from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Message, text_of

__all__ = ["page", "rendered"]

TEXT = "white-space:pre-wrap;overflow-wrap:anywhere"
NEWLINE = "\u21b5"
"""Stands for a newline in a token."""

CELL = 'style="text-align:left;vertical-align:top;padding:2px 10px 2px 0"'


def rendered(looks: Sequence[RolloutLook], temperature: float) -> str:
    """A part of a page: a block for each rollout, whose tokens show their details when the mouse is over them.

    All text is escaped, and nothing in it is loaded or run.
    """
    legend = " ".join(_shaded(text, kl) for text, kl in (("0", 0.0), ("0.1", 0.1), ("0.7", 0.7), ("2 or more", 2.0)))
    about = (
        f"<p>Shaded: KL(teacher || student) in nats a token, {legend}. Probabilities are at the temperature of the "
        f"loss, {temperature:g}. Underlined tokens are left out of the loss. Point at a token to see what both say.</p>"
    )
    return f"<div>{about}{''.join(map(_look, looks))}</div>"


def page(looks: Sequence[RolloutLook], temperature: float) -> str:
    """The same as a page of its own."""
    head = '<head><meta charset="utf-8"><title>Rollouts</title></head>'
    style = "max-width:60em;margin:2em auto;font-family:sans-serif;line-height:1.5"
    return f'<!DOCTYPE html><html lang="en">{head}<body style="{style}">{rendered(looks, temperature)}</body></html>\n'


def _look(look: RolloutLook) -> str:
    rows = "".join(
        f"<tr><th {CELL}>{_text(name)}{'' if each.finished else ' (cut)'}</th>"
        f'<td {CELL}><span style="{TEXT}">{_text(each.text)}</span></td></tr>'
        for name, each in look.answers.items()
    )
    tokens = "".join(map(_token, look.tokens))
    table = "".join(map(_row, look.tokens))
    heads = "".join(
        f"<th {CELL}>{name}</th>"
        for name in ("token", "KL", "entropy of student", "of teacher", "student: likeliest next", "teacher: likeliest")
    )
    length = count_text(len(look.tokens), "token")
    about = f"trained on: {_text(look.trained_on)}, {length}, KL {look.mean_kl:.3f} nats a token"
    return (
        f'<div style="border-top:1px solid #888;padding:6px 0"><b>{_text(look.id)}</b>'
        f'<div style="{TEXT}">{_conversation(look.prompt)}</div>'
        f"<details><summary>what the teacher sees</summary>"
        f'<div style="{TEXT}">{_conversation(look.shown)}</div></details>'
        f"<table>{rows}</table>"
        f"<div>{about}</div>"
        f'<div style="{TEXT};font:1em monospace">{tokens}</div>'
        f"<details><summary>all tokens</summary><table><tr>{heads}</tr>{table}</table></details></div>"
    )


def _conversation(messages: Sequence[Message]) -> str:
    return "\n".join(f"<i>{_text(each['role'])}</i> {_text(text_of(each['content']))}" for each in messages)


def _token(token: TokenLook) -> str:
    details = (
        f"KL {token.kl:.3f}, entropy of student {token.student_entropy:.2f}, of teacher {token.teacher_entropy:.2f}\n"
        f"student: {_candidates(token.student)}\nteacher: {_candidates(token.teacher)}"
    )
    return _shaded(token.text, token.kl, escape(details), "" if token.trained else "text-decoration:underline dotted;")


def _shaded(text: str, kl: float, title: str = "", style: str = "") -> str:
    share = level(kl) / LEVELS * 0.8
    # Half transparent, so that it can be read on dark pages too.
    style += f"background:rgba(238,102,119,{share:.2f})" if share else ""
    about = f' title="{title}"' if title else ""
    shown = escape(visible(text, newline=NEWLINE + "\n"))
    return f'<span style="{style}"{about}>{shown}</span>'


def _row(token: TokenLook) -> str:
    numbers = (f"{token.kl:.3f}", f"{token.student_entropy:.2f}", f"{token.teacher_entropy:.2f}")
    texts = (*numbers, escape(_candidates(token.student)), escape(_candidates(token.teacher)))
    first = f"<td {CELL}><code>{_shaded(token.text, token.kl)}</code></td>"
    return f"<tr>{first}{''.join(f'<td {CELL}>{each}</td>' for each in texts)}</tr>"


def _candidates(candidates: Sequence[Candidate]) -> str:
    return "  ".join(f"'{visible(each.text, newline=NEWLINE)}' {each.probability:.2f}" for each in candidates)


def _text(text: str) -> str:
    return escape(visible(text))
