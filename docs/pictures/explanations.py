"""Draws the pictures of the pages that explain: `python docs/pictures/explanations.py`."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot as plt
from torch import Tensor

FOLDER = Path(__file__).parent


def float32_average(weights: int = 100_000, steps: int = 250, rate: float = 0.01) -> None:
    """The way that a teacher's average has gone to a student that moved by 2% at once, in two precisions."""
    start = torch.randn(weights, generator=torch.Generator().manual_seed(0)) * 0.02
    student = start * 1.02
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for dtype, color in ((torch.float32, "tab:blue"), (torch.bfloat16, "tab:red")):
        begin, target = start.to(dtype).float(), student.to(dtype).float()
        teacher, gone = start.to(dtype, copy=True), [0.0]
        for _ in range(steps):
            teacher.mul_(1 - rate).add_(student.to(dtype), alpha=rate)
            gone.append(float((teacher.float() - begin).dot(target - begin) / (target - begin).square().sum()))
        print(f"{dtype}: {gone[-1]:.2f} of the way; {float((teacher.float() != begin).float().mean()):.0%} moved")
        axes.plot(gone, color=color, label=str(dtype).removeprefix("torch."))
    axes.set(xlabel="optimizer step", ylabel="share of the way to the student", ylim=(-0.02, 1))
    _save(figure, "float32_average")


def forward_reverse() -> None:
    """What a student that can be one hump only becomes of a teacher with two humps, by forward and reverse KL."""
    tokens = torch.linspace(-6, 6, 241)
    teacher = 0.6 * _hump(tokens, -2, 0.7) + 0.4 * _hump(tokens, 2.5, 0.7)
    teacher /= teacher.sum()
    figure, axes = plt.subplots(figsize=(6, 3.2))
    axes.fill_between(tokens, teacher, color="0.85", label="teacher")
    for name, color in (("forward", "tab:blue"), ("reverse", "tab:red")):
        middle, width = torch.tensor(-1.0, requires_grad=True), torch.tensor(-0.3, requires_grad=True)
        optimizer = torch.optim.Adam([middle, width], lr=0.02)
        for _ in range(1500):
            student = torch.log_softmax(-((tokens - middle) ** 2) / (2 * width.exp() ** 2), 0)
            forward = (teacher * (teacher.log() - student)).sum()
            reverse = (student.exp() * (student - teacher.log())).sum()
            optimizer.zero_grad()
            (forward if name == "forward" else reverse).backward()
            optimizer.step()
        axes.plot(tokens, student.detach().exp(), color=color, label=f"student, {name} KL")
    axes.set(xlabel="what might be said", ylabel="probability", yticks=[])
    _save(figure, "forward_reverse")


def wearing() -> None:
    """Two runs of `make stability` (`double`, seed 0): a teacher that follows blindly, and one that does not."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    with (FOLDER / "wearing.csv").open() as file:
        for row in csv.DictReader(file):
            curves[row["teacher"], row["metric"]].append((int(row["step"]), float(row["value"])))
    names = {
        "student/in_context": ("student, shown the demonstration", "tab:orange"),
        "teacher/accuracy": ("teacher, shown the demonstration", "tab:purple"),
        "val/accuracy": ("student by itself", "tab:red"),
        "train/loss": ("loss", "0.6"),
    }
    figure, axes = plt.subplots(figsize=(6, 3.4))
    for (teacher, metric), points in sorted(curves.items(), key=lambda each: list(names).index(each[0][1])):
        label, color = names[metric]
        gated = teacher.startswith("gated")
        style = {"color": "tab:green", "label": f"{label}; {teacher}"} if gated else {"color": color, "label": label}
        axes.plot(*zip(*points, strict=True), **style)
    axes.set(xlabel="optimizer step", ylabel="accuracy; loss in nats a token", ylim=(-0.02, 1.02))
    _save(figure, "wearing")


def _hump(tokens: Tensor, middle: float, width: float) -> Tensor:
    return torch.exp(-((tokens - middle) ** 2) / (2 * width**2))


def _save(figure: plt.Figure, name: str) -> None:
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[0].spines[["top", "right"]].set_visible(False)
    figure.savefig(FOLDER / f"{name}.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    float32_average()
    forward_reverse()
    wearing()
