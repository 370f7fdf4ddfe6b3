"""General prompts, for distillation that preserves or restores a model's abilities.

[1] Lambert et al., Tulu 3: Pushing Frontiers in Open Language Model Post-Training, 2024,
    https://arxiv.org/abs/2411.15124
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.json_files import BadRow
from lightning_sdft.data.layout_reading import read_as
from lightning_sdft.data.layouts import AUTO, Layout, find_layout
from lightning_sdft.data.questions import first_of_each
from lightning_sdft.data.row_module import OnBadRow, located, parse_rows
from lightning_sdft.data.splits import Splits
from lightning_sdft.data.tables import Row, open_rows
from lightning_sdft.errors import DataError
from lightning_sdft.records import Example, text_of
from lightning_sdft.settings import Count, Seed, check_ranges

__all__ = ["TULU", "GeneralDataModule", "read_prompts"]

log = logging.getLogger(__name__)

TULU = "allenai/tulu-3-sft-mixture"
"""Tulu 3 [1], the data set with which re-invocation was introduced."""


class GeneralDataModule(DemonstrationDataModule):
    """Conversations without demonstrations: each ends with a user turn, which the model answers itself.

    The layout of the rows is found as by :class:`JsonDataModule`: ``messages`` or ``conversations`` (whatever follows
    the last user turn is dropped), or a column of prompts such as ``prompt`` or ``question`` (a text or a list of
    messages). If several rows have the same conversation, only the first is used.

    Args:
        source: File, folder or hub id of the rows; see :func:`~lightning_sdft.data.tables.read_rows`.
        prompts: Number of rows sampled from the source; ``None`` uses all (Tulu 3 has 939,000).
        evaluation: Data module whose validation and test sets are evaluated: the task that was learned before, or
            other tasks that must not be forgotten. Its training rows are not used.
        sample_seed: Seed for sampling the rows.
        on_bad_row: See :class:`RowDataModule`.
        prompt_column: Column of the prompts or conversations; by default (``auto``) it is found.
        **kwargs: See :class:`DemonstrationDataModule`.

    Raises:
        SettingError: If the number of prompts is not positive.
    """

    def __init__(
        self,
        source: str = TULU,
        prompts: Count | None = 10000,
        evaluation: DemonstrationDataModule | None = None,
        sample_seed: Seed = 0,
        on_bad_row: OnBadRow = "error",
        prompt_column: str = AUTO,
        **kwargs: Any,
    ) -> None:
        check_ranges(GeneralDataModule, locals())
        super().__init__(**kwargs)
        self.source = source
        self.prompts = prompts
        self.evaluation = evaluation
        self.sample_seed = sample_seed
        self.on_bad_row = on_bad_row
        self.prompt_column = prompt_column

    def load(self) -> Splits:
        """Read the prompts and the evaluation sets."""
        argument, drawn = f"{self.setting}.source", (self.prompts, self.sample_seed)
        examples = read_prompts(self.source, argument, *drawn, self.on_bad_row, self.setting, self.prompt_column)
        if self.evaluation is None:
            return Splits(examples)
        self.evaluation.setting = f"{self.setting}.evaluation"
        evaluated = self.evaluation.splits
        return Splits(examples, evaluated.validation, evaluated.test)


def read_prompts(
    source: str,
    argument: str,
    prompts: int | None = None,
    sample_seed: int = 0,
    on_bad_row: OnBadRow = "error",
    setting: str = "data",
    prompt_column: str = AUTO,
) -> list[Example]:
    """Read prompts as :class:`GeneralDataModule` does.

    Args:
        source: See :class:`GeneralDataModule`.
        argument: Name of the setting that gave the source, for errors.
        prompts: See :class:`GeneralDataModule`.
        sample_seed: See :class:`GeneralDataModule`.
        on_bad_row: See :class:`RowDataModule`.
        setting: The setting that has ``on_bad_row`` and ``prompt_column``, for errors.
        prompt_column: See :class:`GeneralDataModule`.

    Raises:
        DataError: If the prompts cannot be read.
    """
    stem = Path(source).stem

    rows = open_rows(source, "train", argument)
    numbers = list(range(1, len(rows) + 1))
    if prompts is not None and prompts < len(rows):
        numbers = sorted(random.Random(sample_seed).sample(numbers, prompts))
    drawn = [rows[number - 1] for number in numbers]
    layout = _layout(drawn, source, prompt_column, setting)

    def parse(row: Row, where: str, number: int) -> Example:
        prompt, _ = read_as(layout, row, where, needed=False)
        return located(Example(f"{stem}-{number}", prompt), where)

    examples = parse_rows(drawn, source, parse, on_bad_row, numbers, setting)
    different = first_of_each(examples, _without_spacing)
    repeated = len(examples) - len(different)
    if repeated:
        log.info("%s: left out %d of %d prompts that occur before", source, repeated, len(examples))
    return different


def _layout(rows: Sequence[Row], source: str, prompt_column: str, setting: str) -> Layout:
    """The layout of the rows, which is said in one line."""
    if all(isinstance(row, BadRow) for row in rows):
        return Layout(prompt_column, None)  # none of them will be read
    try:
        layout = find_layout(rows, prompt_column, None, setting=setting)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    rank_zero_info(f"{source}: {layout}")
    return layout


def _without_spacing(example: Example) -> str:
    return json.dumps([[turn["role"], text_of(turn["content"]).split()] for turn in example.prompt])
