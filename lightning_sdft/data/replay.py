"""Mixes examples of what must not be forgotten into those that are learned.

[1] Robins, Catastrophic forgetting, rehearsal and pseudorehearsal, 1995, https://doi.org/10.1080/09540099550039318
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_sdft.data.splits import SplitSource
from lightning_sdft.errors import DataError
from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Example
from lightning_sdft.settings import Fraction, Seed, check_ranges

__all__ = ["Replay"]

SETTING = "data.replay.data"
"""The name of the setting, for errors."""


@dataclass(frozen=True)
class Replay:
    """Replay, or rehearsal [1]: a share of the training examples are general ones, or those of earlier tasks.

    They are drawn once, and shuffled with the others in each epoch, which has more steps for that.

    Args:
        data: A data module, of which training examples are drawn.
        share: Share of the training examples that they are.
        seed: Seed of the draw.

    Raises:
        SettingError: If a number is out of range.
    """

    data: SplitSource
    share: Fraction = 0.2
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(Replay, vars(self))

    def mixed(self, train: Sequence[Example]) -> list[Example]:
        """The training examples, and behind them those that are replayed.

        Args:
            train: What is learned.

        Raises:
            DataError: If there are too few examples to replay.
        """
        self.data.setting = SETTING
        found = self.data.splits.train
        count = round(self.share / (1 - self.share) * len(train))
        if len(found) < count:
            raise DataError(
                f"{SETTING} has {count_text(len(found), 'training example')}, but share={self.share:g} of what "
                f"is trained on is {count} beside {len(train)}; give more, or lower data.replay.share"
            )
        drawn = random.Random(f"replay/{self.seed}").sample(list(found), count)
        return [*train, *(replace(each, id=f"replay/{each.id}") for each in drawn)]
