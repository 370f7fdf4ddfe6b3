"""Checks of a data module's examples before training: what lacks something, is too long, or cannot be read.

The chat template and the tokenizer decide which conversations can be read, so that is known here and not to the data
modules, which have checked what they could.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Protocol

from lightning.pytorch.utilities import rank_zero_warn

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError, placed
from lightning_sdft.modules.checks import OverBudget, Problem, check_budgets, check_complete, drop_or_refuse, naming
from lightning_sdft.policy import Tokenizer
from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Example

__all__ = ["check_examples", "leave_out_bad_rows", "warn_of_other_text"]

COMPARED = 4
"""Number of training examples whose text is compared with the chat template's."""

AROUND = 12
"""Number of tokens that are shown on each side of a difference."""

REPLY = "Yes."
"""What stands for the response where there is no demonstration."""


class Reader(Protocol):
    """What the checks ask of a module."""

    tokenizer: Tokenizer
    over_budget: OverBudget
    conversational: bool

    def missing(self, example: Example) -> str | None:
        """What the example lacks."""

    def prompt_problem(self, example: Example) -> str | None:
        """Why its prompt is too long."""

    def completion_problem(self, example: Example) -> str | None:
        """Why its demonstration is too long."""

    def training_problem(self, example: Example) -> str | None:
        """Why it is too long to be trained on."""


def check_examples(module: Reader, datamodule: DemonstrationDataModule, stage: str) -> Sequence[EvaluationSet]:
    """Leave out examples that cannot be used, or refuse them, as the settings say.

    Args:
        module: The module.
        datamodule: Its data.
        stage: Lightning's name of what follows: ``fit``, ``validate``, ``test`` or ``predict``.

    Returns:
        The sets that are evaluated in this stage.

    Raises:
        DataError: If there are such examples, and they are not to be left out.
    """
    leave_out_bad_rows(datamodule, module, trains=stage == "fit")
    splits = datamodule.splits
    evaluated = splits.validation if stage in ("fit", "validate") else splits.test
    for evaluation_set in evaluated:
        check_budgets(evaluation_set.examples, module.prompt_problem)
    if stage != "predict" and (shown := [each for each in evaluated if not each.graders]):
        _check_demonstrations(shown, datamodule, module)
        evaluated = datamodule.splits.validation if stage in ("fit", "validate") else datamodule.splits.test
    if stage == "fit":
        check_complete(splits.train, module.missing, type(module).__name__)
        drop_or_refuse(datamodule, module.training_problem, module.over_budget)
        if module.conversational:
            warn_of_other_text(module.tokenizer, datamodule.splits.train[:COMPARED])
    return evaluated


def _check_demonstrations(sets: Sequence[EvaluationSet], datamodule: DemonstrationDataModule, module: Reader) -> None:
    """Refuse examples of sets without graders that have no demonstration; leave out, or refuse, those over budget."""
    examples = list(chain.from_iterable(each.examples for each in sets))
    for example in examples:
        if not example.demonstration:
            raise DataError(
                f"{example.where or f'example {example.id!r}'}: there is neither a reference to grade answers by, nor "
                "a demonstration whose loss could be taken; give data.reference_column, or demonstrations (predict "
                "needs neither)"
            )
    if module.over_budget == "error":
        check_budgets(examples, module.completion_problem)
        return
    over = {id(each) for each in examples if naming(module.completion_problem)(each) is not None}
    if over:
        datamodule.filter_evaluated(lambda example: id(example) not in over)
        rank_zero_warn(f"left out {len(over)} of {len(examples)} evaluated examples over their token budgets")


def leave_out_bad_rows(datamodule: DemonstrationDataModule, module: Reader, trains: bool = True) -> None:
    """Leave out the rows that the chat template or the tokenizer refuses, if ``data.on_bad_row`` is ``skip``.

    Otherwise such a row is refused where it is first encoded.

    Args:
        datamodule: The data.
        module: The module that reads them.
        trains: Whether training examples are read.

    Raises:
        DataError: If no training example remains, or none of an evaluation set.
    """
    if getattr(datamodule, "on_bad_row", "error") != "skip":
        return
    bad: list[str] = []

    def readable(problem: Problem) -> Callable[[Example], bool]:
        def keep(example: Example) -> bool:
            try:
                problem(example)
            except DataError as error:
                bad.append(placed(example.where or example.id, error))
                return False
            return True

        return keep

    train = len(datamodule.splits.train)
    if trains:
        datamodule.filter_train(readable(module.training_problem))
    if trains and train and not datamodule.splits.train:
        raise DataError(f"all {train} training rows are bad; the first: {bad[0]}")
    datamodule.filter_evaluated(readable(module.prompt_problem))
    if bad:
        rank_zero_warn(
            f"left out {count_text(len(bad), 'row')} that cannot be read (data.on_bad_row=skip); the first: {bad[0]}"
        )


def warn_of_other_text(tokenizer: Tokenizer, examples: Sequence[Example]) -> None:
    """Warn if a prompt with its response is not what the chat template writes for the whole conversation.

    Both are compared token by token, up to the end of the response.
    """
    for example in examples:
        reply = example.demonstration or REPLY
        try:
            read = tokenizer.encode(example.prompt) + tokenizer.encode_completion(reply)
            whole = tokenizer.encode([*example.prompt, {"role": "assistant", "content": reply}], prompt=False)
        except DataError:  # of the response, which is not read as such
            continue
        served = whole[: len(read)]
        if read != served:
            pairs = enumerate(zip(read, served, strict=False))
            first = next((index for index, (one, other) in pairs if one != other), len(served))
            ours, theirs = (
                tokenizer.hugging_face.decode(each[max(0, first - AROUND) : first + AROUND]) for each in (read, whole)
            )
            rank_zero_warn(
                f"training reads another text than the chat template writes for the same conversation: {ours!r} "
                f"instead of {theirs!r} (around the first difference, in example {example.id!r}). Answers are learned "
                "behind the prompt as it is served, but in a longer conversation they will stand there as the template "
                "writes them; module.template_arguments may change it, for instance {enable_thinking: false}"
            )
            return
