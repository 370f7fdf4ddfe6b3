"""What a model's first answers say about the settings of its first run: temperature, teacher's prompt and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_sdft.commands.asking import prepare
from lightning_sdft.commands.first_config import in_steps
from lightning_sdft.commands.fit import SDFTCLI
from lightning_sdft.evaluation.gaps import Gap, proposed
from lightning_sdft.evaluation.preflight import CUT
from lightning_sdft.progress import Work

__all__ = ["FirstAnswers", "ask_first", "settle_answers"]


@dataclass(frozen=True)
class FirstAnswers:
    """Settings that follow from answers.

    Args:
        settings: Settings of the module, each with a comment that says why.
        said: The same in one line.
    """

    settings: dict[str, Any]
    said: str


def ask_first(cli: SDFTCLI, questions: int) -> list[Gap]:
    """Ask the model of a run, by itself and shown demonstrations, in several ways.

    Args:
        cli: Trainer, module and data of the run, with room for answers to end by themselves.
        questions: Number of training questions.
    """
    asking = prepare(cli.trainer, cli.model, cli.datamodule, questions, seed=0)
    with cli.trainer.precision_plugin.forward_context(), Work("asking the model", asking.answers, "answers") as work:
        asking.asker.answered = work.advance
        gaps = asking.survey()
        work.advance(work.total - work.done)  # not every way had to be asked
    return gaps


def settle_answers(gaps: Sequence[Gap], graded: bool, demonstrations: int, limit: int) -> FirstAnswers:
    """Take the way of answering in which the teacher is furthest ahead, and the length at which answers end there.

    Args:
        gaps: Gaps, of which the first is that of the defaults.
        graded: Whether answers were graded; otherwise they were compared with the demonstrations.
        demonstrations: Number of tokens that the demonstrations need.
        limit: Number of tokens at which answers were cut.
    """
    best, default = proposed(gaps), gaps[0]
    helps = best.gain.low > 0
    way = best if helps else default
    settings: dict[str, Any] = {"max_completion_tokens": _length(way, demonstrations, limit)}
    shown = f"{best.questions} questions, shown the demonstration: {_score(best.teacher.value, graded)}"
    if helps and best.temperature != default.temperature:
        other = next(each for each in gaps if each.temperature == default.temperature)
        settings["sampling"] = {
            "temperature": (
                best.temperature,
                f"{shown} like this, {other.teacher.value:.2f} at {other.temperature:g}",
            )
        }
    if helps and best.template != default.template:
        settings["teacher_template"] = (best.template, "what the teacher sees; the best of those that were tried")
    if helps:
        said = f"{shown}, {best.student.value:.2f} without; temperature {best.temperature:g}"
    else:
        said = (
            f"{shown}, {best.student.value:.2f} without, so there may be nothing that SDFT could teach; preflight asks "
            "more questions, and --method sft learns without a teacher"
        )
    return FirstAnswers(settings, said)


def _score(value: float, graded: bool) -> str:
    return f"{value:.2f} {'are right' if graded else 'of the words are those of the demonstration'}"


def _length(way: Gap, demonstrations: int, limit: int) -> tuple[int, str]:
    """The budget of a completion, and why."""
    if way.truncated > CUT:
        reason = f"the model does not end its answers by itself: {way.truncated:.0%} of them had {limit} tokens or more"
        return in_steps(1.5 * demonstrations), reason
    if way.tokens >= limit:
        return limit, f"{way.truncated:.0%} of the first answers, the model's and its teacher's, are longer"
    return in_steps(
        max(way.tokens, demonstrations)
    ), "at most 5% of the first answers, the model's and its teacher's, are longer"
