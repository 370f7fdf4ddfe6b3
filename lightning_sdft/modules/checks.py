"""Checks that stop a run: examples that lack something or exceed a token budget, and a loss that is not finite.

A run whose weights are too coarse for the learning rate gets a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.errors import DataError, PolicyError, Refusal, SettingError, placed
from lightning_sdft.policy import Tokenizer
from lightning_sdft.policy.lora import LoRA, check_installed
from lightning_sdft.records import Example

__all__ = [
    "NonFiniteLossError",
    "OverBudget",
    "Problem",
    "batch_examples",
    "check_adapter",
    "check_budgets",
    "check_complete",
    "check_finite",
    "check_group_ends",
    "check_length",
    "check_one_process",
    "drop_or_refuse",
    "gradient_norm",
    "immovable_share",
    "naming",
    "warn_of_rounding",
]

OverBudget = Literal["error", "drop"]

SAMPLE = " (lightning-sdft demonstrate samples demonstrations from another model)"

T = TypeVar("T")

Problem = Callable[[Example], str | None]
"""Returns what is wrong with an example, or ``None``."""


class NonFiniteLossError(Refusal, RuntimeError):
    """The loss or its gradient is infinite or not a number; the message names the examples."""

    def __init__(self, what: str, value: float, step: int, examples: Sequence[Example]) -> None:
        super().__init__(
            f"the {what} is {value} at step {step} on the examples {[example.id for example in examples]}; training "
            "stops before the weights change, and the last checkpoint has only finite weights. Lower the learning "
            "rate, or look at these examples; if going on from the last checkpoint ends here again, take an earlier one"
        )


def batch_examples(batch: object) -> Sequence[Example]:
    """The examples of a training batch, which must be a :class:`MicroBatch`, because that knows its optimizer step.

    Raises:
        DataError: If it is not: it is neither from a data module of this package nor collated by ``MicroBatch.of``.
    """
    if not isinstance(batch, MicroBatch):
        raise DataError(
            f"a batch is a {type(batch).__name__} instead of a MicroBatch; give your loader "
            "collate_fn=MicroBatch.of (from lightning_sdft.data), or use a data module of lightning_sdft"
        )
    return batch.examples


def check_adapter(lora: LoRA, pretrained: bool) -> None:
    """Refuse to train an adapter without what it needs, or on random weights.

    Raises:
        PolicyError: If PEFT is not installed, or bitsandbytes for a base of few bits.
        SettingError: If the weights under the adapter are random.
    """
    check_installed(lora.base)
    if not pretrained:
        raise SettingError("lora needs pretrained=true: checkpoints hold the adapter, not the weights under it")


def check_one_process(tokenizer: Tokenizer, processes: int) -> None:
    """Refuse to have several processes train a model that reads images.

    Raises:
        SettingError: If there are several.
    """
    if tokenizer.images is not None and processes > 1:
        raise SettingError(
            f"{processes} processes would wait for each other where one has no image to read; train a model that reads "
            "images with trainer.devices=1 and trainer.num_nodes=1"
        )


def check_group_ends(batch: MicroBatch) -> None:
    """Refuse an optimizer step on a part of a group, whose losses are weighted for the whole group.

    Raises:
        DataError: If there are micro-batches of the group that have not been read.
    """
    if not batch.is_last:
        raise DataError(
            f"the optimizer would step after {batch.index + 1} of the {batch.group.micro_batches} micro-batches that "
            "its step has; take trainer.accumulate_grad_batches of that number, and trainer.limit_train_batches of a "
            "multiple of it"
        )


def check_complete(examples: Sequence[Example], missing: Problem, method: str) -> None:
    """Refuse examples that lack what the method learns from.

    Raises:
        DataError: If an example lacks something; the message names it.
    """
    for example in examples:
        lacking = missing(example)
        if lacking is not None:
            raise DataError(
                f"example {example.id!r} has no {lacking}, which {method} learns from; give one, or leave the example "
                f"out of the training data{SAMPLE if lacking == 'demonstration' else ''}"
            )


def naming(read: Callable[[Example], T]) -> Callable[[Example], T]:
    """The same function of an example, whose errors name the row that cannot be read."""

    def named(example: Example) -> T:
        try:
            return read(example)
        except DataError as error:
            where = example.where or f"example {example.id!r}"
            message = placed(where, error)
            if message == str(error):
                raise
            hint = " (data.on_bad_row=skip leaves such rows out)" if example.where else ""
            raise DataError(f"{message}{hint}") from error

    return named


def check_budgets(examples: Sequence[Example], problem: Problem) -> None:
    """Refuse examples over a token budget, because prompts and demonstrations are never truncated.

    Raises:
        DataError: If one cannot be read, or if there are any over a budget; the message names the row, or says how
            many there are and names the first with its length.
    """
    problem = naming(problem)
    found = [(example.id, reason) for example in examples if (reason := problem(example)) is not None]
    if found:
        name, reason = found[0]
        raise DataError(
            f"{len(found)} of {len(examples)} examples are over a token budget, the first is {name!r}: {reason}. "
            "Raise the budget, shorten the examples, or leave training examples out with over_budget=drop"
        )


def drop_or_refuse(datamodule: DemonstrationDataModule, problem: Problem, over_budget: OverBudget) -> None:
    """Leave out training examples over a budget and warn how many there were, or refuse them.

    Raises:
        DataError: If there are any and ``over_budget`` is ``error``.
    """
    examples = datamodule.splits.train
    if over_budget == "error":
        check_budgets(examples, problem)
    else:
        problem = naming(problem)
        dropped = datamodule.filter_train(lambda example: problem(example) is None)
        if dropped:
            rank_zero_warn(f"dropped {dropped} of {len(examples)} training examples over their token budgets")


def check_length(name: str, limit: int | None, longest: int) -> None:
    """Refuse budgets that allow sequences longer than the model reads.

    Args:
        name: The model.
        limit: Number of tokens in the longest sequence that the model can read, if it has a limit.
        longest: Number of tokens in the longest sequence that the budgets allow.

    Raises:
        PolicyError: If ``longest`` is over the limit.
    """
    if limit is not None and longest > limit:
        raise PolicyError(
            f"the budgets allow sequences of {longest} tokens, but {name!r} reads at most "
            f"{limit}; lower max_prompt_tokens or max_completion_tokens"
        )


def check_finite(what: str, value: Tensor, step: int, examples: Sequence[Example]) -> None:
    """Refuse a loss or gradient norm that is infinite or not a number.

    Raises:
        NonFiniteLossError: If it is; the message names the examples.
    """
    if not torch.isfinite(value):
        raise NonFiniteLossError(what, value.item(), step, examples)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of the gradient of all parameters together; for sharded ones, over all processes."""
    norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def immovable_share(weights: Sequence[Tensor], step: float) -> float:
    """Share of the weights that stay the same when ``step`` is added to them in their own precision."""
    immovable = sum(int((weight.detach() + step == weight.detach()).sum()) for weight in weights)
    return immovable / sum(weight.numel() for weight in weights)


def warn_of_rounding(weights: Sequence[Tensor], learning_rate: float) -> None:
    """Warn if most weights are too coarse to move: AdamW moves a weight by about the learning rate at most."""
    narrow = [weight for weight in weights if weight.itemsize < torch.float32.itemsize]
    if not learning_rate or not narrow:
        return
    share = immovable_share(narrow, learning_rate)
    if share > 0.5:
        dtype = str(narrow[0].dtype).removeprefix("torch.")
        rank_zero_warn(
            f"{share:.0%} of the weights will hardly move: they are in {dtype}, in which a step of "
            f"learning_rate={learning_rate:g} added to them rounds to nothing. Use precision=bf16-mixed, which trains "
            "in float32, or a higher learning rate"
        )
