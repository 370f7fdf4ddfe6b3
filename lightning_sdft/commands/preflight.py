"""The subcommand ``preflight``: checks model and demonstrations before GPU hours are spent."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from lightning.pytorch import Trainer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.data.templates import TEMPLATES_TO_TRY, teacher_messages
from lightning_sdft.errors import DataError
from lightning_sdft.evaluation.forecast import LINE
from lightning_sdft.evaluation.gaps import Asker, Gap, proposed
from lightning_sdft.evaluation.preflight import ANSWERS, Preflight, judge_preflight, preflight
from lightning_sdft.grading.interval import Score
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.checks import naming
from lightning_sdft.modules.distillation import DistillationModule
from lightning_sdft.modules.examples import leave_out_bad_rows
from lightning_sdft.progress import Work
from lightning_sdft.records import Example
from lightning_sdft.storage.atomic import write_text

__all__ = ["PreflightTrainer"]


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
        what that means. The verdict is about the samples, because they are what is learned from.

        Args:
            model: An SDFT module, or another distillation whose teacher sees a demonstration.
            datamodule: Its data, with demonstrations, references and a grader.
            questions: Number of training questions to ask, drawn at random.
            seed: Seed for the choice of questions and for sampled answers.
            output: JSON file to write the report to.
            proposal: YAML file to write the proposed settings to: ``fit --config RUN.yaml --config PROPOSAL.yaml``.

        Raises:
            DataError: If no training question can be asked, shown with a demonstration, and graded.
        """
        if not isinstance(model, DistillationModule) or model.teacher_fields == {"prompt"}:
            raise DataError(
                f"preflight compares a model with its teacher, and {type(model).__name__} here has none that sees "
                "more; give the config of an SDFT run"
            )
        if self.world_size > 1:
            raise DataError(f"preflight runs in one process, not {self.world_size}; set trainer.devices=1")
        leave_out_bad_rows(datamodule, model)
        examples = datamodule.splits.train
        graded = _graded(datamodule)
        problem = naming(model.training_problem)
        problems = {example.id: problem(example) for example in examples}
        asked = [each for each in examples if problems[each.id] is None and _usable(each, model)]
        if not asked:
            raise DataError(
                f"none of {len(examples)} training examples is within the token budgets and has what the teacher sees "
                "and what the grader compares with; raise the budgets, or give demonstrations and references"
            )
        asked = random.Random(seed).sample(asked, min(questions, len(asked)))
        name, grader = next(iter(graded.graders.items()))
        EvaluationSet(asked, {name: grader}).check_references()
        with self.precision_plugin.module_init_context():
            model.configure_model()
        model.to(self.strategy.root_device)
        with self.precision_plugin.forward_context():
            limits = (model.max_completion_tokens, datamodule.evaluation_batch_size, seed)
            asker = Asker(model.policy, asked, grader, teacher_messages, model.sampling, *limits)
            others = TEMPLATES_TO_TRY if model.teacher_fields == {"prompt", "demonstration"} else ()
            surveyed = (model.sampling.temperature, model.teacher_template, others)
            with Work("preflight", ANSWERS * len(asked) + asker.answers(*surveyed), "answers") as work:
                asker.answered = work.advance
                ways = (model.teacher_messages, *limits, model.sampling, work.advance)
                result = preflight(model.policy, asked, grader, *ways)
                result = replace(result, gaps=asker.survey(*surveyed))
        over_budget = [problem for problem in problems.values() if problem is not None]
        verdict, reasons = judge_preflight(result)
        if over_budget:
            reasons.append(f"{len(over_budget)} of {len(examples)} training prompts are over budget: {over_budget[0]}")
            verdict = "doubtful" if verdict == "go" and len(over_budget) > len(examples) / 10 else verdict
        _report(result, f"{model.model}, {name}", len(over_budget), len(examples), verdict, reasons)
        if proposal is not None:
            write_text(Path(proposal), _settings(proposed(result.gaps)))
        if output is not None:
            record = {
                "forecast": asdict(LINE.at(result.gaps[0].gain.value)),
                "model": model.model,
                "grader": name,
                **asdict(result),
                "over_budget": len(over_budget),
            }
            write_text(Path(output), json.dumps({**record, "verdict": verdict, "reasons": reasons}, indent=2) + "\n")
        return result


def _graded(datamodule: DemonstrationDataModule) -> EvaluationSet:
    """The set of the new task, whose grader says what is correct."""
    splits = datamodule.splits
    for evaluation_set in (*splits.validation, *splits.test):
        if evaluation_set.graders and not evaluation_set.prior:
            return evaluation_set
    raise DataError(
        f"{type(datamodule).__name__} grades nothing, so nothing says what is correct; give validation or test rows "
        "with references"
    )


def _usable(example: Example, model: DistillationModule) -> bool:
    return model.missing(example) is None and example.demonstration is not None and example.reference is not None


def _report(result: Preflight, title: str, over_budget: int, examples: int, verdict: str, reasons: list[str]) -> None:
    table = Table(title=f"Preflight: {title}, {result.questions} questions", show_header=False)
    rows = {
        "accuracy by itself": _with_interval(result.base),
        "accuracy with the demonstration (teacher)": _with_interval(result.teacher),
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
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(_gaps(result.gaps))
    for template, name in _template_names(result.gaps).items():
        console.print(f"text {name} of the teacher's prompt: {template!r}", highlight=False, markup=False)
    console.print(_foretold(result.gaps), highlight=False)
    console.print(f"verdict: {verdict}", style="bold", highlight=False)
    for reason in reasons:
        console.print(f"- {reason}", highlight=False)


def _gaps(gaps: Sequence[Gap]) -> Table:
    """A table of what student and teacher answer under each way of sampling; the proposed one is marked."""
    table = Table(title="Answers as training samples them", box=SIMPLE_HEAD)
    for column in ("temp.", "text", "student", "teacher", "gain", "95%", "cut", ""):
        table.add_column(column, no_wrap=True)
    best, names = proposed(gaps), _template_names(gaps)
    for index, gap in enumerate(gaps):
        mark = "proposed" if gap is best else "set" if index == 0 else ""
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


def _foretold(gaps: Sequence[Gap]) -> str:
    """What accuracy SDFT may gain, as it is set and as proposed."""
    best, lines = proposed(gaps), []
    for name, gap in [("as it is set", gaps[0]), ("as proposed", best)][: 1 if best is gaps[0] else 2]:
        found = LINE.at(gap.gain.value)
        beyond = (
            f", whose gaps were {LINE.lowest:.2f} to {LINE.highest:.2f}: this one is outside" if found.outside else ""
        )
        lines.append(
            f"accuracy that SDFT may gain {name}: {found.gain:.2f} (95%: {found.low:.2f} to {found.high:.2f}), by "
            f"{LINE.runs} short runs of the laptop models{beyond}"
        )
    return "\n".join(lines)


def _settings(gap: Gap) -> str:
    """A config with what a way of sampling sets."""
    settings = {"sampling": {"temperature": gap.temperature}, "teacher_template": gap.template}
    return yaml.safe_dump({"model": {"init_args": settings}}, sort_keys=False)


def _with_interval(score: Score) -> str:
    return f"{score.value:.3f} (95%: {score.low:.3f} to {score.high:.3f})"
