"""How well the gap before training foretells what SDFT gains: many short runs of the laptop models, and a line."""

from __future__ import annotations

import itertools
import logging
import warnings
from dataclasses import asdict, dataclass

import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_sdft.data import StringSkillsDataModule
from lightning_sdft.data.string_skills import NEW_SKILLS
from lightning_sdft.data.templates import LAPTOP_TEMPLATE, teacher_messages
from lightning_sdft.evaluation.forecast import Line
from lightning_sdft.evaluation.gaps import Asker
from lightning_sdft.modules import SDFTModule
from lightning_sdft.records import Sampling

STEPS = 96
STYLES = ("sentence", "list", "unseen")
TEMPERATURES = (0.5, 1.0, 1.5, 2.0)
QUESTIONS = 64


@dataclass(frozen=True)
class Case:
    """A run: model, skill, style of the demonstrations, temperature and seed."""

    model: str
    skill: str
    style: str
    temperature: float
    seed: int


def cases(seed: int) -> list[Case]:
    """All combinations."""
    grid = itertools.product(("laptop", "laptop-small"), NEW_SKILLS, STYLES, TEMPERATURES)
    return [Case(*each, seed) for each in grid]


def run(case: Case) -> dict[str, object]:
    """Measure the gap, train, and measure the gain in accuracy."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(case.seed, verbose=False)
    data = StringSkillsDataModule(
        case.skill, case.style, batch_size=32, data_seed=case.seed, shuffle_seed=case.seed, validate_prior=False
    )
    module = SDFTModule(
        f"zoo/{case.model}",
        learning_rate=3e-4,
        max_prompt_tokens=16,
        max_completion_tokens=24,
        max_teacher_prompt_tokens=64,
        teacher_template=LAPTOP_TEMPLATE,
        skip_tokens=0,
        sampling=Sampling(temperature=case.temperature),
    )
    module.configure_model()
    (graded, *_) = data.splits.validation
    asked, grader = data.splits.train[:QUESTIONS], next(iter(graded.graders.values()))
    asker = Asker(module.policy, asked, grader, teacher_messages, module.sampling, 24, QUESTIONS)
    gap = asker.gap(case.temperature, LAPTOP_TEMPLATE)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=-1,
        max_steps=STEPS,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    (before,) = trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data)
    (after,) = trainer.validate(module, datamodule=data, verbose=False)
    name = "val/accuracy"
    found = {"gap": gap.gain.value, "gap_low": gap.gain.low, "teacher": gap.teacher.value}
    return {**asdict(case), **found, "before": before[name], "gain": after[name] - before[name]}


def fitted(gaps: torch.Tensor, gains: torch.Tensor, bases: torch.Tensor) -> Line:
    """The line through runs, by least squares."""
    mean, spread = gaps.mean(), gaps - gaps.mean()
    slope = (spread * (gains - gains.mean())).sum() / spread.square().sum()
    intercept = gains.mean() - slope * mean
    scatter = ((gains - intercept - slope * gaps).square().sum() / (len(gaps) - 2)).sqrt()

    def rounded(value: torch.Tensor) -> float:
        return round(value.item(), 4)

    return Line(
        rounded(intercept),
        rounded(slope),
        rounded(scatter),
        len(gaps),
        rounded(mean),
        rounded(spread.square().sum()),
        (rounded(gaps.min()), rounded(gaps.max())),
        (rounded(bases.min()), rounded(bases.max())),
    )
