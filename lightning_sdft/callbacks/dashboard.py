"""What a run is about in one place: the charts of TensorBoard's tab Custom Scalars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard.summary import custom_scalars

from lightning_sdft.callbacks.run_logger import RunLogger, shown_as

__all__ = ["Dashboard"]

LEARNING: dict[str, Sequence[str]] = {"where nothing is graded: loss of the demonstrations": ["val/loss$"]}
"""Charts of lines beside that of the accuracy."""

LINES: dict[str, dict[str, Sequence[str]]] = {
    "retention": {
        "each prior task, and the average": ["prior/.*"],
        "where nothing is graded: loss of each prior task": ["prior_loss/.*"],
        "KL to the model that training started from": ["val/kl_to_base.*"],
    },
    "loss": {
        "KL to the teacher (distillation)": ["teacher/kl$"],
        "negative log-likelihood (SFT, DFT, CPT)": ["train/nll$"],
    },
    "teacher against student": {
        "accuracy": ["teacher/accuracy$", "student/in_context$", "student/alone$"],
        "teacher minus student": ["teacher/gain$", "teacher/gain_sampled$"],
    },
    "rollouts": {
        "tokens": ["rollout/length_p50$", "rollout/length_p95$", "rollout/length$"],
        "share that was cut": ["rollout/cut$", "rollout/truncated$"],
    },
    "speed": {
        "prompts per second": ["speed/prompts_per_second$"],
        "share of each phase": ["speed/share_.*"],
    },
}
"""Charts of lines by category: regular expressions of the metrics in each."""


class Dashboard(Callback):
    """Lays out TensorBoard's tab Custom Scalars, where all runs are drawn together.

    *Learning*: the accuracy on the new task with its 95% interval, and the base model's (:class:`BaseComparison`) as a
    line; without references, the loss of the demonstrations. *Retention*: each prior task, their average, the KL to the
    base model. *Loss*: the KL to the teacher and the negative log-likelihood, each in its own chart, because
    ``train/loss`` is the one with SDFT and the other with SFT. *Teacher against student*: what :class:`TeacherWatch`
    asks. *Rollouts* and *speed*. What is not logged stays empty.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                shown = shown_as if isinstance(logger, RunLogger) else str
                writer = logger.experiment.file_writer
                assert writer is not None  # it is open
                summary = custom_scalars({})
                summary.value[0].tensor.string_val[0] = layout(shown).SerializeToString()  # which has two margins
                writer.add_summary(summary)


def layout(shown: Callable[[str], str]) -> layout_pb2.Layout:
    """The charts.

    Args:
        shown: The name under which a logger shows a metric.
    """
    learning = layout_pb2.Chart(
        title="new task: accuracy (95%), and the base model's",
        margin=layout_pb2.MarginChartContent(
            series=[_series(*map(shown, _ends("val/accuracy"))), _series(*["val/base_accuracy"] * 3)]
        ),
    )
    first = layout_pb2.Category(title="learning", chart=[learning, *_lines(LEARNING)])
    others = [layout_pb2.Category(title=title, chart=_lines(charts)) for title, charts in LINES.items()]
    return layout_pb2.Layout(category=[first, *others])


def _lines(charts: dict[str, Sequence[str]]) -> list[layout_pb2.Chart]:
    return [
        layout_pb2.Chart(title=name, multiline=layout_pb2.MultilineChartContent(tag=tags))
        for name, tags in charts.items()
    ]


def _ends(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _series(value: str, lower: str, upper: str) -> layout_pb2.MarginChartContent.Series:
    return layout_pb2.MarginChartContent.Series(value=value, lower=lower, upper=upper)
