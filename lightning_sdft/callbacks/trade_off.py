"""A picture of what was learned against what was kept, over a run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.callbacks.loggers import log_picture
from lightning_sdft.callbacks.run_logger import FIRST

__all__ = ["TradeOffPicture"]

TITLE = f"{FIRST}trade-off, new task against prior tasks"

NEW, PRIOR = "val/accuracy", "prior/average"


WHOLE = (-4, 104)
"""Ends of both axes, in per cent."""


class TradeOffPicture(Callback):
    """Draws the new task against the average of prior tasks, a point per validation, when training ends.

    TensorBoard shows it in its tab Images; MLflow and loggers that have ``log_image`` (Weights & Biases) get it too. It
    needs the extra ``plot``; without it, or without prior tasks, nothing is drawn.
    """

    def __init__(self) -> None:
        self.points: list[tuple[int, float, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep both accuracies; those of the sanity check are the base model's."""
        if not trainer.sanity_checking or trainer.ckpt_path is None:
            self._keep(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them, with what was measured when training ended."""
        self._keep(trainer)
        if len(self.points) < 2 or not trainer.is_global_zero or find_spec("matplotlib") is None:
            return
        log_picture(trainer, TITLE, picture(self.points, type(pl_module).__name__))

    def _keep(self, trainer: Trainer) -> None:
        step, metrics = trainer.global_step, trainer.callback_metrics
        if NEW in metrics and PRIOR in metrics:
            point = (step, float(metrics[NEW]), float(metrics[PRIOR]))
            self.points = [*(each for each in self.points if each[0] < step), point]

    def state_dict(self) -> dict[str, Any]:
        """The points so far."""
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the points."""
        self.points = [(int(step), float(new), float(prior)) for step, new, prior in state_dict["points"]]


def picture(points: list[tuple[int, float, float]], title: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels `(height, width, 3)` of the way that a run has taken.

    Args:
        points: Step, accuracy on the new task and average of prior tasks; the first is where it began.
        title: Title of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panel = figure.subplots()
    steps, new, prior = zip(*points, strict=True)
    across, up = [100 * each for each in prior], [100 * each for each in new]
    panel.plot(across, up, color="#bbbbbb", zorder=1)
    dots = panel.scatter(across, up, c=steps, cmap="viridis", zorder=2)
    for label, at, height in (("start", across[0], up[0]), (f"step {steps[-1]}", across[-1], up[-1])):
        side, across_by = ("right", -6) if at > 50 else ("left", 6)  # towards the middle
        up_by = -12 if height > 90 else 6
        panel.annotate(label, (at, height), xytext=(across_by, up_by), textcoords="offset points", ha=side)
    panel.set(xlabel="prior tasks, average (%)", ylabel="new task (%)", title=title)
    panel.set(xlim=WHOLE, ylim=WHOLE)  # so that pictures of several runs can be compared
    panel.grid(alpha=0.3)
    figure.colorbar(dots, label="optimizer step")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
