"""How much a run reads and writes: its steps, its prompts, and about how many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.modules import CausalLMModule, DistillationModule
from lightning_sdft.progress import count_text
from lightning_sdft.records import Example

__all__ = ["StepTokens", "step_tokens", "training_line"]

COUNTED = 256
"""Number of examples whose tokens are counted; the others are taken to be as long."""


@dataclass(frozen=True)
class StepTokens:
    """The mean number of tokens of an optimizer step.

    Args:
        read: Tokens that student and teacher read to train; one that both read counts twice.
        written: Tokens of the responses that are sampled to train on.
        guessed: Number of tokens that a response is taken to have if there is no demonstration to go by, or ``None``.
    """

    read: float
    written: float
    guessed: int | None


def step_tokens(module: CausalLMModule, examples: Sequence[Example], prompts: int) -> StepTokens:
    """Count the tokens of examples, and conclude on a step.

    A sampled response is taken to be as long as the example's demonstration, or else as its budget.

    Args:
        module: The module, which decides what is read of an example.
        examples: The training examples, at least one.
        prompts: Number of prompts in an optimizer step.
    """
    counted = _spread(examples)
    lengths = [_response(module, each) for each in counted]
    response = fmean(lengths)
    guessed = None if all(each.demonstration for each in counted) else module.max_completion_tokens
    if isinstance(module, DistillationModule):
        shown = [len(module.tokenizer.encode(module.teacher_messages(each))) for each in counted]
        read = prompts * (_prompts(module, counted) + fmean(shown) + 2 * response)
        written = 0.0 if module.rollout_source == "demonstration" else prompts * response
    else:
        read = prompts * fmean(len(each) for each in module.demonstrations(counted))
        written, guessed = 0.0, None
    if module.retention is not None:  # the student answers, and reads it with the base model
        asked = _prompts(module, _spread(module.retain.examples or examples))
        read += module.retention.prompts * 2 * (asked + response)
        written += module.retention.prompts * response
    return StepTokens(read, written, guessed if written else None)


def training_line(module: CausalLMModule, datamodule: DemonstrationDataModule, steps: float, resumed: bool) -> str:
    """What a run is going to do, for its first lines.

    Args:
        module: The module, set up to train.
        datamodule: Its data.
        steps: Optimizer steps of the run; infinite if something else ends it.
        resumed: Whether the run goes on from a checkpoint, which has done a part of it.
    """
    splits, prompts = datamodule.splits, datamodule.batch_size
    found = step_tokens(module, splits.train, prompts)
    limited = 0 < steps < float("inf")
    length = f"{count_text(round(steps), 'step')} of" if limited else "steps of"
    times = steps if limited else 1
    tokens = f"about {_about(found.read * times)} tokens to read"
    if found.written:
        tokens += f" and {_about(found.written * times)} to write"
    each = "" if limited else " in each"
    like = f" if responses have {found.guessed}" if found.guessed else " if responses are as long as demonstrations"
    asked = sum(len(each.examples) for each in splits.validation)
    validation = f"; {count_text(asked, 'question')} at each validation" if asked else ""
    before = ", with what the checkpoint has done" if resumed else ""
    return (
        f"training: {length} {count_text(prompts, 'prompt')} from {count_text(len(splits.train), 'example')}, "
        f"{tokens}{each}{like if found.written else ''}{before}{validation}"
    )


def _spread(examples: Sequence[Example]) -> Sequence[Example]:
    return examples[:: max(1, len(examples) // COUNTED)]


def _prompts(module: CausalLMModule, examples: Sequence[Example]) -> float:
    return fmean(map(len, module.tokenizer.encode_all([each.prompt for each in examples])))


def _response(module: CausalLMModule, example: Example) -> int:
    longest = module.max_completion_tokens
    known = example.demonstration
    return min(len(module.tokenizer.encode_completion(known)), longest) if known else longest


def _about(tokens: float) -> str:
    """A number with two digits.

    Example:
        >>> _about(123_456), _about(7_654_321), _about(42)
        ('120 thousand', '7.7 million', '42')
    """
    for unit, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if tokens >= unit:
            return f"{float(f'{tokens / unit:.2g}'):g} {name}"
    return f"{float(f'{tokens:.2g}'):g}"
