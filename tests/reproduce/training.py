"""Short trainings on the laptop domain, with whatever module and teacher."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lightning_sdft.callbacks import EMATeacher
from lightning_sdft.data import StringSkillsDataModule
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.modules import CausalLMModule, DFTModule, SDFTModule, SFTModule

STEPS = 200


@dataclass(frozen=True)
class Result:
    """Accuracies of one run: of the new skill, and the mean of the prior ones."""

    method: str
    skill: str
    learning_rate: float
    seed: int
    new: float
    prior: float
    base_new: float
    base_prior: float


def build(method: str, learning_rate: float, sdft: type[SDFTModule] = SDFTModule) -> CausalLMModule:
    arguments: dict[str, Any] = {"learning_rate": learning_rate, "max_prompt_tokens": 16, "max_completion_tokens": 24}
    if method == "SDFT":
        template = {"teacher_template": LAPTOP_TEMPLATE, "max_teacher_prompt_tokens": 64}
        return sdft("zoo/laptop", skip_tokens=0, **template, **arguments)
    return {"SFT": SFTModule, "DFT": DFTModule}[method]("zoo/laptop", **arguments)


def run(
    method: str,
    skill: str,
    learning_rate: float,
    seed: int,
    steps: int = STEPS,
    build_module: Callable[[str, float], CausalLMModule] = build,
    teacher_callback: Callable[[], Callback] = lambda: EMATeacher(teacher_rate=0.01),
) -> Result:
    """Train once, and evaluate before and after."""
    torch.set_num_threads(1)
    with quiet():
        return _run(method, skill, learning_rate, seed, steps, build_module, teacher_callback)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning, and only for now: other tests in the process listen to it."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _run(
    method: str,
    skill: str,
    learning_rate: float,
    seed: int,
    steps: int,
    build_module: Callable[[str, float], CausalLMModule],
    teacher_callback: Callable[[], Callback],
) -> Result:
    seed_everything(seed)
    data = StringSkillsDataModule(
        skill=skill, data_seed=seed, shuffle_seed=seed, batch_size=32, evaluation_batch_size=256
    )
    module = build_module(method, learning_rate)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[teacher_callback()] if method == "SDFT" else [],
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    base = evaluate(trainer, module, data)
    trainer.fit(module, datamodule=data)
    test = evaluate(trainer, module, data)
    return Result(
        method,
        skill,
        learning_rate,
        seed,
        test["test/accuracy"],
        test["test/prior/average"],
        base["test/accuracy"],
        base["test/prior/average"],
    )


def evaluate(trainer: Trainer, module: LightningModule, data: StringSkillsDataModule) -> dict[str, float]:
    metrics = trainer.test(module, datamodule=data, verbose=False)
    return {name: value for part in metrics for name, value in part.items()}


@dataclass(frozen=True)
class Summary:
    """Means over seeds."""

    new: float
    prior_loss: float

    @classmethod
    def of(cls, results: Sequence[Result]) -> Summary:
        loss = mean(result.base_prior - result.prior for result in results)
        return cls(mean(result.new for result in results), loss)


def promise_holds(sdft: Summary, sft: Summary) -> bool:
    """SDFT learns at least as much as SFT, and forgets at most a fifth of what SFT forgets."""
    return sdft.new >= sft.new and sdft.prior_loss <= 0.2 * sft.prior_loss
