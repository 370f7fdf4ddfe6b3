"""The subcommand ``preflight``: checks model and demonstrations before GPU hours are spent."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch import Trainer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lightning_sdft.commands.asking import prepare
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.evaluation.forecast import LINE
from lightning_sdft.evaluation.gaps import Gap, proposed
from lightning_sdft.evaluation.preflight import ANSWERS, Preflight, judge_preflight, preflight
from lightning_sdft.grading.interval import Score
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.progress import Work
from lightning_sdft.storage.atomic import write_text

__all__ = ["PreflightTrainer", "proposal_file"]

PROPOSAL = "proposal.yaml"
"""Where proposed settings are written, if it is not said."""

WORDS = {
    "go": "go",
    "change": "go with the proposed settings, not with those of the config",
    "doubtful": "doubtful",
    "stop": "stop",
}
"""Verdicts as they are printed."""

WITH = {"demonstration": "with the demonstration", "feedback": "told of an attempt"}
"""What the teacher is shown, as it is printed."""

OF_GRADES = ("solved of what the base fails", "answers that could not be graded")
"""Rows of the report that are about right and wrong answers."""


class PreflightTrainer(Trainer):
    """A trainer that can also check model and demonstrations before training."""

    def preflight(
        self,
        model: CausalLMModule,
        datamodule: DemonstrationDataModule,
        questions: int = 64,
        seed: int = 0,
        output: str | None = None,
        proposal: str | None = None,
    ) -> Preflight:
        """Measure whether the model has the in-context ability that SDFT needs: same config as ``fit``, no training.

        The model answers training questions with and without the demonstration, greedily and sampled as in training.
        The report says how much the demonstration helps, at which temperature and with which template it would help
        more, how far the teacher is from the base model, how often it merely copies, which prompts are over budget, and
        what that means. The verdict is about the samples, because they are what is learned from. Without references,
        answers are compared with the demonstrations, by the words that they share.

        The teacher of SDPO sees no demonstration. The student attempts each question first, the attempts are graded,
        and the teacher answers when it is told what became of one: that, sampled, against the student alone is the
        verdict. Temperatures are tried, and templates are not.

        Args:
            model: An SDFT module, or another distillation whose teacher sees a demonstration or feedback.
            datamodule: Its data, with demonstrations, and best with references and a grader.
            questions: Number of training questions to ask, drawn at random.
            seed: Seed for the choice of questions and for sampled answers.
            output: JSON file to write the report to.
            proposal: YAML file for the proposed settings: ``fit --config RUN.yaml --config PROPOSAL.yaml``; if none is
                given and those that are set will not do, ``proposal.yaml``.

        Raises:
            DataError: If no training question can be asked and shown with a demonstration.
        """
        asking = prepare(self, model, datamodule, questions, seed)
        asker, module = asking.asker, asking.module
        work = Work("preflight", ANSWERS * len(asker.examples) + asking.answers, "answers")
        with self.precision_plugin.forward_context(), work:
            asker.answered = work.advance
            limits = (asker.max_completion_tokens, asker.batch_size, seed)
            shown = {each.id: seen for each, seen in zip(asker.examples, asking.shown(), strict=True)}
            ways = (lambda example: shown[example.id], *limits, asker.sampling, work.advance)
            result = preflight(module.policy, asker.examples, asker.grader, *ways)
            told: Literal["demonstration", "feedback"] = "feedback" if asking.tells else "demonstration"
            result = replace(result, gaps=asking.survey(), shown=told)
            work.advance(work.total - work.done)  # not every way was asked every question
        over_budget, examples = asking.over_budget, asking.examples
        verdict, reasons = judge_preflight(result)
        if over_budget:
            reasons.append(f"{len(over_budget)} of {examples} training prompts are over budget: {over_budget[0]}")
            verdict = "doubtful" if verdict == "go" and len(over_budget) > examples / 10 else verdict
        title = f"{model.model}, {asking.name or 'words shared with the demonstrations'}"
        _report(result, title, len(over_budget), examples, WORDS[verdict], reasons)
        file = proposal_file(result, proposal)
        if file is not None:
            write_text(Path(file), _settings(proposed(result.gaps), result.shown))
        if output is not None:
            record = {
                "forecast": None if asking.tells else asdict(LINE.at(result.gaps[0].gain.value, result.base.value)),
                "model": model.model,
                "grader": asking.name,
                **asdict(result),
                "over_budget": len(over_budget),
            }
            write_text(Path(output), json.dumps({**record, "verdict": verdict, "reasons": reasons}, indent=2) + "\n")
        return result


def proposal_file(result: Preflight, proposal: str | None) -> str | None:
    """The file of the proposed settings.

    Args:
        result: What was measured.
        proposal: The file that is asked for.
    """
    changed = judge_preflight(result)[0] == "change"
    return PROPOSAL if proposal is None and changed else proposal


def _report(result: Preflight, title: str, over_budget: int, examples: int, verdict: str, reasons: list[str]) -> None:
    table = Table(title=f"Preflight: {title}, {result.questions} questions", show_header=False)
    measured = "accuracy" if result.graded else "words shared"
    rows = {
        f"{measured} by itself": _with_interval(result.base),
        f"{measured} {WITH[result.shown]} (teacher)": _with_interval(result.teacher),
        "teacher minus base": _with_interval(result.gain),
        "solved of what the base fails": f"{result.solved:.3f}",
        "answers that could not be graded": str(result.ungraded),
        "KL of the teacher from the base": (
            f"{result.kl_per_token:.3f} nats a token, {result.kl_per_response:.2f} a response"
        ),
        "the base's surprise at the teacher's answers": f"{result.teacher_surprise:.3f} nats a token",
        "the base's surprise at the demonstrations": f"{result.demonstration_surprise:.3f} nats a token",
        "teacher's answers that copy the demonstration": f"{result.copied:.3f}",
        "teacher's answers that were cut": f"{result.truncated:.3f}",
        "own answers that were cut": f"{result.base_truncated:.3f}",
        "training prompts over budget": f"{over_budget} of {examples}",
    }
    if not result.graded:
        rows = {name: value for name, value in rows.items() if name not in OF_GRADES}
    if math.isnan(result.copied):
        rows = {name: value for name, value in rows.items() if "demonstration" not in name}
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(_gaps(result.gaps))
    for template, name in _template_names(result.gaps).items():
        console.print(f"text {name} of the teacher's prompt: {template!r}", highlight=False, markup=False)
    if result.graded and result.shown == "demonstration":
        console.print(_foretold(result.gaps, result.base.value), highlight=False)
    console.print(f"verdict: {verdict}", style="bold", highlight=False)
    for reason in reasons:
        console.print(f"- {reason}", highlight=False)


def _gaps(gaps: Sequence[Gap]) -> Table:
    """What student and teacher answer under each way of sampling; what is set and what is proposed is marked."""
    few, most = min(gap.questions for gap in gaps), max(gap.questions for gap in gaps)
    title = f"Answers to {few} questions as training samples them"
    title += f"; set and proposed: to {most}" if few < most else ""
    table = Table(title=title, box=SIMPLE_HEAD)
    for column in ("temp.", "text", "student", "teacher", "gain", "95%", "cut", ""):
        table.add_column(column, no_wrap=True)
    best, names = proposed(gaps), _template_names(gaps)
    for index, gap in enumerate(gaps):
        chosen = gap is best and gap.gain.low > 0
        mark = ("keep" if chosen else "set") if index == 0 else "proposed" if chosen else ""
        temperature = f"{gap.temperature:g}" if gap.temperature else "greedy"
        scores = [f"{each:.2f}" for each in (gap.student.value, gap.teacher.value, gap.gain.value)]
        interval = f"{gap.gain.low:.2f} to {gap.gain.high:.2f}"
        table.add_row(temperature, names[gap.template], *scores, interval, f"{gap.truncated:.2f}", mark)
    return table


def _template_names(gaps: Sequence[Gap]) -> dict[str, str]:
    """A letter for each template, A for the one that is set."""
    return {
        template: chr(ord("A") + place) for place, template in enumerate(dict.fromkeys(gap.template for gap in gaps))
    }


def _foretold(gaps: Sequence[Gap], base: float) -> str:
    """What accuracy SDFT may gain, as it is set and as proposed."""
    best, lines = proposed(gaps), []
    for name, gap in [("as it is set", gaps[0]), ("as proposed", best)][: 1 if best is gaps[0] else 2]:
        found = LINE.at(gap.gain.value, base)
        beyond = f", which were not like this one: {found.outside}" if found.outside else ""
        lines.append(
            f"accuracy that SDFT may gain {name}: {found.gain:.2f} (95%: {found.low:.2f} to {found.high:.2f}), by "
            f"{LINE.runs} short runs of the laptop models{beyond}"
        )
    return "\n".join(lines)


def _settings(gap: Gap, shown: str) -> str:
    """A config with what a way of sampling sets; templates in parts are not tried."""
    settings: dict[str, Any] = {"sampling": {"temperature": gap.temperature}}
    if shown == "demonstration":
        settings["teacher_template"] = gap.template
    return yaml.safe_dump({"model": {"init_args": settings}}, sort_keys=False)


def _with_interval(score: Score) -> str:
    return f"{score.value:.3f} (95%: {score.low:.3f} to {score.high:.3f})"
