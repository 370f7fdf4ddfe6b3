"""What the method promises, on the laptop domain: SFT, DFT and SDFT learn a new skill, and forget others or keep them.

``python -m tests.method.study --output FOLDER`` runs 3 skills, 5 seeds and 2 learning rates for each method, and writes
``results.json`` and ``table.md``. Each method is judged at its own better learning rate, by new-task accuracy on the
validation split (ties to the lower); accuracies are those of the test split.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lightning_sdft.callbacks import EMATeacher
from lightning_sdft.data import StringSkillsDataModule
from lightning_sdft.data.string_skills import NEW_SKILLS
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.modules import CausalLMModule, DFTModule, SDFTModule, SFTModule

LEARNING_RATES = (1e-4, 3e-4)
STEPS = 200


@dataclass(frozen=True)
class Result:
    """Accuracies of one run: of the new skill, and the mean of the prior ones."""

    method: str
    skill: str
    learning_rate: float
    seed: int
    validation: float
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
    base = evaluate(trainer, "test", module, data)
    trainer.fit(module, datamodule=data)
    validation, test = (evaluate(trainer, split, module, data) for split in ("validate", "test"))
    return Result(
        method,
        skill,
        learning_rate,
        seed,
        validation["val/accuracy"],
        test["test/accuracy"],
        test["test/prior/average"],
        base["test/accuracy"],
        base["test/prior/average"],
    )


def evaluate(trainer: Trainer, split: str, module: LightningModule, data: StringSkillsDataModule) -> dict[str, float]:
    trainer.limit_val_batches = 1.0
    metrics = getattr(trainer, split)(module, datamodule=data, verbose=False)
    trainer.limit_val_batches = 0
    return {name: value for part in metrics for name, value in part.items()}


def best_learning_rate(results: Iterable[Result], method: str) -> float:
    """The learning rate with the best mean validation accuracy; the lower of equals."""
    results = [result for result in results if result.method == method]
    rates = sorted({result.learning_rate for result in results})
    return max(rates, key=lambda rate: mean(r.validation for r in results if r.learning_rate == rate))


@dataclass(frozen=True)
class Summary:
    """A method at its best learning rate, means over skills and seeds."""

    learning_rate: float
    new: float
    prior_loss: float


def summarise(results: list[Result], method: str) -> Summary:
    rate = best_learning_rate(results, method)
    chosen = [result for result in results if result.method == method and result.learning_rate == rate]
    loss = mean(result.base_prior - result.prior for result in chosen)
    return Summary(rate, mean(result.new for result in chosen), loss)


def promise_holds(sdft: Summary, sft: Summary) -> bool:
    """SDFT learns at least as much as SFT, and forgets at most a fifth of what SFT forgets."""
    return sdft.new >= sft.new and sdft.prior_loss <= 0.2 * sft.prior_loss


def table(results: list[Result], steps: int) -> str:
    methods = sorted({result.method for result in results}, key=["SFT", "DFT", "SDFT"].index)
    cells = {(r.skill, r.learning_rate, r.method): [] for r in results}  # type: dict[tuple[str, float, str], list[Result]]
    for result in results:
        cells[result.skill, result.learning_rate, result.method].append(result)
    seeds = len({result.seed for result in results})
    lines = [f"New task / mean of the prior skills on the test split, mean of {seeds} seeds, {steps} steps.", ""]
    lines += [f"| new skill (base) | rate | {' | '.join(methods)} |", f"|---|---|{'---|' * len(methods)}"]
    for skill, rate in sorted({key[:2] for key in cells}, key=lambda key: (list(NEW_SKILLS).index(key[0]), key[1])):
        base = [result for result in results if result.skill == skill]
        label = f"{skill} ({mean(r.base_new for r in base):.2f} / {mean(r.base_prior for r in base):.2f})"
        values = [cells.get((skill, rate, method), []) for method in methods]
        texts = [f"{mean(r.new for r in v):.3f} / {mean(r.prior for r in v):.3f}" if v else "-" for v in values]
        lines.append(f"| {label} | {rate:.0e} | {' | '.join(texts)} |")
    lines += [
        "",
        "| method at its best rate | rate | new task | prior skills lost | share of SFT's loss |",
        "|---|---|---|---|---|",
    ]
    sft = summarise(results, "SFT")
    for method in methods:
        each = summarise(results, method)
        share = each.prior_loss / sft.prior_loss
        lines.append(f"| {method} | {each.learning_rate:.0e} | {each.new:.3f} | {each.prior_loss:.3f} | {share:.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--skills", nargs="+", default=list(NEW_SKILLS))
    parser.add_argument("--methods", nargs="+", default=["SFT", "DFT", "SDFT"])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    tasks = list(product(arguments.methods, arguments.skills, LEARNING_RATES, range(arguments.seeds)))
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        results = []
        for result in pool.map(partial(run, steps=arguments.steps), *zip(*tasks, strict=True)):
            results.append(result)
            print(result, flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "results.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    (arguments.output / "table.md").write_text(table(results, arguments.steps) + "\n")
    print(table(results, arguments.steps))


if __name__ == "__main__":
    main()
