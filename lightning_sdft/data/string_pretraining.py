"""What the laptop model is pretrained on: prior skills, following demonstrations, and part of the new skills.

A model that follows demonstrations can be a teacher. Partial knowledge of the new skills corresponds to the paper's
base models, which have 30 to 43% accuracy: some of the student's own answers must be correct for the teacher to
reinforce them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.data.string_skills import (
    LETTERS,
    NEW_SKILLS,
    OWN_STYLE,
    PRIOR_SKILLS,
    STYLES,
    Letters,
    draw_input,
    skill_function,
    user_turn,
)
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.grading.string_answer import StringAnswer
from lightning_sdft.records import Example
from lightning_sdft.settings import Count, Seed, Share, check_ranges

__all__ = ["SPARE_SKILLS", "StringPretrainingDataModule"]

SPARE_SKILLS = [f"skill-{number}" for number in range(8)]
"""Skill names without a meaning: their answers are arbitrary, so the model can learn them only from a demonstration."""

LEGIBLE_STYLES = [style for style in STYLES if style != "unseen"]


class StringPretrainingDataModule(DemonstrationDataModule):
    """The pretraining mixture of the laptop model; the target is always in the model's own style.

    Args:
        size: Number of training sequences.
        prior_share: Share of sequences that show a prior skill; a quarter of these have a demonstration in the prompt.
        partial_share: Share of sequences that show a new skill without demonstration. The remaining sequences have
            arbitrary answers; for 85% of them a demonstration in the prompt shows the answer.
        right_shares: For each new skill, the share of its answers that are correct; the others apply a prior skill.
        evaluation_size: Number of prompts per skill in the validation split.
        data_seed: Seed for sampling the mixture.
        **kwargs: See :class:`DemonstrationDataModule`.
    """

    def __init__(
        self,
        size: Count = 65536,
        prior_share: Share = 0.41,
        partial_share: Share = 0.08,
        right_shares: Mapping[str, Share] | None = None,
        evaluation_size: Count = 128,
        data_seed: Seed = 1,
        **kwargs: Any,
    ) -> None:
        check_ranges(StringPretrainingDataModule, locals())
        super().__init__(**kwargs)
        self.size = size
        self.prior_share = prior_share
        self.partial_share = partial_share
        self.right_shares = dict.fromkeys(NEW_SKILLS, 0.45) | dict(right_shares or {})
        self.evaluation_size = evaluation_size
        self.data_seed = data_seed

    def load(self) -> Splits:
        """Sample the mixture, and for validation every skill with and without a demonstration."""
        rng = random.Random(f"{self.data_seed}/pretraining")
        train = [self._sequence(rng, str(index)) for index in range(self.size)]
        rng = random.Random(f"{self.data_seed}/validation")
        validation = []
        for skill in (*NEW_SKILLS, *PRIOR_SKILLS):
            for shown in (False, True):
                examples = []
                for index in range(self.evaluation_size):
                    letters = draw_input(rng)
                    answer = skill_function(skill)(letters)
                    examples.append(_example(rng, f"{skill}-{index}", skill, letters, answer, shown))
                name = f"{skill}-shown" if shown else skill
                validation.append(EvaluationSet(examples, {name: StringAnswer()}, prior=skill in PRIOR_SKILLS))
        return Splits(train, validation)

    def _sequence(self, rng: random.Random, name: str) -> Example:
        letters = draw_input(rng)
        kind = rng.random()
        if kind < self.prior_share:
            skill = rng.choice(list(PRIOR_SKILLS))
            return _example(rng, name, skill, letters, skill_function(skill)(letters), rng.random() < 0.25)
        if kind < self.prior_share + self.partial_share:
            skill = rng.choice(list(NEW_SKILLS))
            applied = skill if rng.random() < self.right_shares[skill] else rng.choice(list(PRIOR_SKILLS))
            return _example(rng, name, skill, letters, skill_function(applied)(letters), shown=False)
        shown = rng.random() < 0.85
        skill = rng.choice([*SPARE_SKILLS, *NEW_SKILLS] if shown else SPARE_SKILLS)
        return _example(rng, name, skill, letters, _arbitrary_answer(rng, letters), shown)


def _arbitrary_answer(rng: random.Random, letters: Letters) -> Letters:
    """Random letters: half the time from the whole alphabet, otherwise from the letters of the input."""
    length = rng.randint(1, 12)
    return rng.choices(LETTERS if rng.random() < 0.5 else letters, k=length)


def _example(rng: random.Random, name: str, skill: str, letters: Letters, answer: Letters, shown: bool) -> Example:
    prompt = user_turn(skill, letters)
    if shown:
        demonstration = STYLES[rng.choice(LEGIBLE_STYLES)](answer)
        prompt[-1]["content"] = LAPTOP_TEMPLATE.format(prompt=prompt[-1]["content"], demonstration=demonstration)
    return Example(name, prompt, demonstration=STYLES[OWN_STYLE](answer), reference=" ".join(answer))
