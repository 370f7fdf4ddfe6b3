"""Make demonstrations for questions that have none: sample responses, and keep a right one for each question [1].

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.commands.files import output_files, write_rows
from lightning_sdft.commands.next_steps import after_demonstrate
from lightning_sdft.commands.samples import Accepted, Samples
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.questions import question
from lightning_sdft.data.row_module import RowDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.records import Example
from lightning_sdft.settings import Count, check_ranges
from lightning_sdft.storage.lock import writing

__all__ = ["demonstrate"]


def demonstrate(data: DemonstrationDataModule, chat: ChatModel, output: str, samples: Count = 8) -> None:
    """Sample responses to training questions without demonstration, and keep the first right one of each.

    A response is right if all graders of the data module's evaluation accept it: in science the right letter in the
    right form, in tool use calls that both scorers accept. Questions held out for validation and test are never
    sampled, nor are training questions that are also evaluated. The held-out questions are written to files of their
    own, so that a later run trains and evaluates on the same split: ``lightning-sdft fit`` with
    ``data.train=demos.jsonl``, ``data.validation=demos.validation.jsonl`` and ``data.test=demos.test.jsonl``.
    ``JsonDataModule`` reads them, too, with ``data.reference_column=reference`` and ``data.id_column=id``.

    Every response is saved in ``demos.journal.jsonl`` at once. If the command was stopped, run it again, and it asks
    only for what is missing. The rows are written at the end.

    Args:
        data: The questions, such as ``ScienceDataModule`` with ``--data.train``; it must have an evaluation set, whose
            graders say which responses are right.
        chat: The chat model to ask, such as ``Endpoint`` with ``--chat.model`` and ``--chat.base_url``, or
            ``LocalChat`` with ``--chat.model`` and ``--chat.temperature=1``.
        output: File of the training rows, such as ``demos.jsonl``; the other files are named after it.
        samples: How often each question is asked at most, in this run and earlier ones together.

    Raises:
        DataError: If an output file exists that this command did not write, if there is no grader, if a question has
            no reference to grade with, or if no question has a demonstration in the end.
        ChatError: If the chat model cannot be used at all, or would always give the same reply.
    """
    check_ranges(demonstrate, locals())
    files = output_files(output, ["validation", "test"])
    splits = data.splits
    sets = [*splits.validation, *splits.test]
    graders = _graders(sets)
    asks = data.question if isinstance(data, RowDataModule) else question
    evaluated = {asks(example) for each in sets for example in each.examples}
    train = [example for example in splits.train if asks(example) not in evaluated]
    if len(train) < len(splits.train):
        print(f"left out {len(splits.train) - len(train)} training questions that are also evaluated")
    wanting = [example for example in train if example.demonstration is None]
    for example in wanting:
        if example.reference is None:
            raise DataError(f"example {example.id!r} has no reference to grade samples with; give one, or leave it out")
    EvaluationSet(wanting, {type(each).__name__: each for each in graders}).check_references()
    with writing(files["train"]):
        source = Samples(chat, graders, files["journal"], samples)
        found = source.accepted(wanting)
        for split, each in (("validation", splits.validation), ("test", splits.test)):
            write_rows(files[split], [_row(example) for skill in each if not skill.prior for example in skill.examples])
        rows = [
            _row(example, found[example.id].response if example.id in found else None)
            for example in train
            if example.id in found or example.demonstration is not None
        ]
        write_rows(files["train"], rows)
        place = files["train"] if rows else "no file"
        print(f"demonstrations for {len(rows)} of {len(train)} training questions: {place}")
        _report(found, [example for example in wanting if example.id not in found], source)
        if not rows:
            raise DataError("no question has a demonstration; see above, and perhaps ask a stronger model")
    after_demonstrate(files)


def _graders(sets: Sequence[EvaluationSet]) -> list[Grader]:
    for each in sets:
        if each.graders and not each.prior:
            return list(each.graders.values())
    raise DataError(
        "the data module has no evaluation set with references, so nothing says how to grade; hold out "
        "a share, or give a file, and say which column has the references"
    )


def _row(example: Example, response: str | None = None) -> dict[str, Any]:
    further = {"response": response or example.demonstration, "context": example.context}
    row = {"id": example.id, "prompt": example.prompt, "reference": example.reference}
    return row | {column: value for column, value in further.items() if value is not None}


def _report(found: Mapping[str, Accepted], missing: Sequence[Example], source: Samples) -> None:
    for number, count in sorted(Counter(each.number for each in found.values()).items()):
        print(f"  right at sample {number}: {count}")
    never_right = source.never_right(missing)
    if never_right:
        names = ", ".join(example.id for example in never_right[:10]) + (", ..." if len(never_right) > 10 else "")
        print(
            f"never right in {source.limit} samples, left out, listed in {source.journal.path}: {len(never_right)} "
            f"({names})"
        )
    if len(missing) > len(never_right):
        unfinished = len(missing) - len(never_right)
        print(f"left out because replies or verdicts did not come: {unfinished}; run the command again")
