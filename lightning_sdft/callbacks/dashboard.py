"""What a run is about in one place: the charts of TensorBoard's tab Custom Scalars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard.summary import custom_scalars

from lightning_sdft.callbacks.base_comparison import BaseComparison
from lightning_sdft.callbacks.kl_to_base import KLToBase
from lightning_sdft.callbacks.prior_tasks import PriorTasks
from lightning_sdft.callbacks.run_logger import RunLogger, shown_as
from lightning_sdft.callbacks.teacher_watch import TeacherWatch
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.distillation import DistillationModule

__all__ = ["Dashboard"]

Lines = dict[str, Sequence[str]]
"""Regular expressions of the metrics in each chart, by its title."""

LOSSES: Lines = {"loss of the demonstrations": ["val/loss$"]}

PRIOR: Lines = {"each prior task, and the average": ["prior/.*"]}

PRIOR_LOSSES: Lines = {"loss of each prior task, and the average": ["prior_loss/.*"]}

KL_TO_BASE: Lines = {"KL to the model that training started from": ["val/kl_to_base.*"]}

KL: Lines = {"KL to the teacher (distillation)": ["teacher/kl$"]}

NLL: Lines = {"negative log-likelihood (SFT, DFT, CPT)": ["train/nll$"]}

TEACHER: Lines = {
    "accuracy: teacher and student, shown; student alone": [
        "teacher/accuracy$",
        "student/in_context$",
        "student/alone$",
    ],
    "teacher minus student: greedy, and sampled": ["teacher/gain$", "teacher/gain_sampled$"],
}

LENGTHS: Lines = {"tokens: mean in training": ["rollout/length$"], "share cut in training": ["rollout/truncated$"]}

QUANTILES: Lines = {"tokens: median, 95th percentile": ["rollout/length_p50$", "rollout/length_p95$"]}

SPEED: Lines = {
    "prompts per second": ["speed/prompts_per_second$"],
    "share of each phase": ["speed/share_.*"],
}


class Dashboard(Callback):
    """Lays out TensorBoard's tab Custom Scalars, where all runs are drawn together.

    *Learning*: the accuracy on the new task with its 95% interval, and the base model's (:class:`BaseComparison`) as a
    line; without references, the loss of the demonstrations. *Retention*: the average of prior tasks with its interval,
    each of them, the KL to the base model. *Loss*: the KL to the teacher and the negative log-likelihood, each in its
    own chart, because ``train/loss`` is the one with SDFT and the other with SFT. *Teacher against student*: what
    :class:`TeacherWatch` asks. *Rollouts* and *speed*. A run asks for the charts of what it logs; TensorBoard joins
    those of all runs.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                shown = shown_as if isinstance(logger, RunLogger) else str
                writer = logger.experiment.file_writer
                assert writer is not None  # it is open
                summary = custom_scalars({})
                callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set outside of __init__
                text = layout(shown, pl_module, callbacks).SerializeToString()  # which has two margins
                summary.value[0].tensor.string_val[0] = text
                writer.add_summary(summary)


def layout(shown: Callable[[str], str], module: LightningModule, callbacks: Sequence[Callback]) -> layout_pb2.Layout:
    """The charts of what a run logs.

    Args:
        shown: The name under which a logger shows a metric.
        module: The module, which knows what it is evaluated on.
        callbacks: The callbacks, some of which measure.
    """
    sets = module.graded.sets if isinstance(module, CausalLMModule) else ()
    new, prior = ([each for each in sets if each.prior is kind] for kind in (False, True))
    measures = {type(each) for each in callbacks}
    distilled = isinstance(module, DistillationModule)

    learning, retention = [], []
    if any(each.graders for each in new):
        base = [["val/base_accuracy"] * 3] if BaseComparison in measures else []
        title = "new task: accuracy (95%), and the base model's" if base else "new task: accuracy (95%)"
        learning.append(_margins(title, [*map(shown, _ends("val/accuracy"))], *base))
    if not all(each.graders for each in new):
        learning += _lines(LOSSES)
    if any(each.graders for each in prior):
        retention.append(_margins("average of prior tasks (95%)", [*map(shown, _ends("prior", "/average"))]))
    if retention or PriorTasks in measures:
        retention += _lines(PRIOR)
    if not all(each.graders for each in prior):
        retention += _lines(PRIOR_LOSSES)
    if KLToBase in measures:
        retention += _lines(KL_TO_BASE)
    watched = TeacherWatch in measures
    charts = {
        "learning": learning,
        "retention": retention,
        "loss": _lines(KL if distilled else NLL),
        "teacher against student": _lines(TEACHER) if watched else [],
        "rollouts": _lines({**(QUANTILES if watched else {}), **(LENGTHS if distilled else {})}),
        "speed": _lines(SPEED),
    }
    return layout_pb2.Layout(category=[layout_pb2.Category(title=each, chart=of) for each, of in charts.items() if of])


def _lines(charts: Lines) -> list[layout_pb2.Chart]:
    return [
        layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=tags))
        for name, tags in charts.items()
    ]


def _margins(title: str, *series: Sequence[str]) -> layout_pb2.Chart:
    """A chart of lines, each within its lower and its upper end."""
    kind = layout_pb2.MarginChartContent
    content = kind(series=[kind.Series(value=value, lower=lower, upper=upper) for value, lower, upper in series])
    return layout_pb2.Chart(title=title, margin=content)


def _ends(prefix: str, rest: str = "") -> tuple[str, str, str]:
    """A metric and the ends of its interval."""
    return f"{prefix}{rest}", f"{prefix}_low{rest}", f"{prefix}_high{rest}"
