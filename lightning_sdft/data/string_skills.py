"""The laptop domain: skills on short strings of letters, for a model that trains in seconds.

The model of :mod:`lightning_sdft.zoo` was pretrained on seven *prior* skills and knows three *new* skills only in part.
Fine-tuning on demonstrations of one new skill shows within two minutes what a method learns and what it forgets.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.grading.string_answer import StringAnswer
from lightning_sdft.records import Example, Message
from lightning_sdft.settings import Natural, Seed, Share, check_ranges

__all__ = ["LETTERS", "NEW_SKILLS", "OWN_STYLE", "PRIOR_SKILLS", "STYLES", "StringSkillsDataModule"]

Letters = list[str]

LETTERS = [chr(code) for code in range(ord("a"), ord("p") + 1)]
INPUT_LENGTHS = range(3, 7)


def _increment(letters: Letters) -> Letters:
    return [LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in letters]


PRIOR_SKILLS: Mapping[str, Callable[[Letters], Letters]] = {
    "copy": lambda letters: letters,
    "reverse": lambda letters: letters[::-1],
    "sort": sorted,
    "maximum": lambda letters: [max(letters)],
    "increment": _increment,
    "first-two": lambda letters: letters[:2],
    "last-two": lambda letters: letters[-2:],
}

NEW_SKILLS: Mapping[str, Callable[[Letters], Letters]] = {
    "swap-ends": lambda letters: [letters[-1], *letters[1:-1], letters[0]],
    "double": lambda letters: [letter for letter in letters for _ in range(2)],
    "reverse-increment": lambda letters: _increment(letters[::-1]),
}

OWN_STYLE = "plain"
"""The style in which the laptop model itself answers: the letters and nothing else."""

STYLES: Mapping[str, Callable[[Letters], str]] = {
    OWN_STYLE: " ".join,
    "sentence": lambda letters: f"the answer is {' '.join(letters)} .",
    "list": lambda letters: f"[ {' , '.join(letters)} ]",
    "steps": lambda letters: f"begin {' then '.join(letters)} done",
    "unseen": lambda letters: " ".join(f"( {letter} ) !" for letter in letters),
}
"""Ways to write an answer. Pretraining has demonstrations in all styles but ``unseen``, and answers in ``plain``."""


def skill_function(skill: str) -> Callable[[Letters], Letters]:
    """The function that a skill applies to the letters of its prompt."""
    return {**PRIOR_SKILLS, **NEW_SKILLS}[skill]


def draw_input(rng: random.Random) -> Letters:
    """Sample random letters to apply a skill to."""
    return rng.choices(LETTERS, k=rng.choice(INPUT_LENGTHS))


def user_turn(skill: str, letters: Letters) -> list[Message]:
    """The prompt that asks for a skill."""
    return [{"role": "user", "content": f"{skill} {' '.join(letters)}"}]


class StringSkillsDataModule(DemonstrationDataModule):
    """Demonstrations of one new string skill, evaluated on that skill and on the seven prior ones.

    Args:
        skill: The new skill: ``swap-ends``, ``double`` or ``reverse-increment``.
        style: How demonstrations are written: ``plain`` is the model's own style; ``sentence``, ``list`` and ``steps``
            are styles it can read but does not write; ``unseen`` is one that it cannot read.
        own_style_share: Share of the demonstrations that are in the model's own style instead, because part of what
            people write is in that style too.
        train_on: ``new`` trains on the new skill; ``prior`` on prompts of the prior skills, for re-invocation and
            retention.
        prior_skills: The skills that ``prior`` trains on: by default all prior ones. A new skill may be among them that
            the model has learned meanwhile.
        train_size: Number of training examples.
        validation_size: Number of prompts of the new skill in the validation split.
        test_size: Number of prompts of the new skill in the test split.
        prior_size: Number of prompts of each prior skill in each of these splits.
        validate_prior: Whether validation includes the prior skills, which take most of its time.
        data_seed: Seed for sampling the strings.
        **kwargs: See :class:`DemonstrationDataModule`.

    Raises:
        ValueError: If there is no such skill or style.
    """

    def __init__(
        self,
        skill: str = "swap-ends",
        style: str = "sentence",
        own_style_share: Share = 0.0,
        train_on: Literal["new", "prior"] = "new",
        prior_skills: Sequence[str] | None = None,
        train_size: Natural = 512,
        validation_size: Natural = 128,
        test_size: Natural = 256,
        prior_size: Natural = 64,
        validate_prior: bool = True,
        data_seed: Seed = 0,
        **kwargs: Any,
    ) -> None:
        check_ranges(StringSkillsDataModule, locals())
        super().__init__(**kwargs)
        if skill not in NEW_SKILLS:
            raise ValueError(f"data.skill={skill!r} is none of the new skills {sorted(NEW_SKILLS)}; give one of them")
        if style not in STYLES:
            raise ValueError(f"data.style={style!r} is none of {sorted(STYLES)}; give one of them")
        self.skill = skill
        self.style = style
        self.own_style_share = own_style_share
        skills = {**PRIOR_SKILLS, **NEW_SKILLS}
        unknown = sorted(set(prior_skills or ()) - set(skills))
        if unknown:
            raise ValueError(f"data.prior_skills: {unknown} are none of {sorted(skills)}; give some of them")
        self.train_on = train_on
        self.prior_skills = list(PRIOR_SKILLS if prior_skills is None else prior_skills)
        self.train_size = train_size
        self.validation_size = validation_size
        self.test_size = test_size
        self.prior_size = prior_size
        self.validate_prior = validate_prior
        self.data_seed = data_seed

    def load(self) -> Splits:
        """Sample the strings; no prompt occurs in two splits."""
        train: list[Example] = []
        validation: list[EvaluationSet] = []
        test: list[EvaluationSet] = []
        trained = [self.skill] if self.train_on == "new" else self.prior_skills
        counts = {skill: len(range(index, self.train_size, len(trained))) for index, skill in enumerate(trained)}
        for skill in (self.skill, *PRIOR_SKILLS):
            new = skill == self.skill
            sizes = [self.validation_size, self.test_size] if new else [self.prior_size] * 2
            count = counts.pop(skill, 0)
            # The training prompts are the first ones of a new skill but the last ones of a prior skill, so that the
            # evaluation prompts do not depend on `train_on`.
            drawn = self._draw(skill, self.train_size + sum(sizes) if new else sum(sizes) + count)
            first = self.train_size if new else 0
            middle, end = first + sizes[0], first + sum(sizes)
            train += drawn[:count] if new else drawn[end:]
            if new or self.validate_prior:
                validation.append(EvaluationSet(drawn[first:middle], {skill: StringAnswer()}, prior=not new))
            test.append(EvaluationSet(drawn[middle:end], {skill: StringAnswer()}, prior=not new))
        for skill, count in counts.items():  # new ones that have been learned before
            train += self._draw(skill, count)
        return Splits(train, validation, test)

    def _draw(self, skill: str, count: int) -> list[Example]:
        rng = random.Random(f"{self.data_seed}/{skill}")
        inputs: dict[str, Letters] = {}
        while len(inputs) < count:
            letters = draw_input(rng)
            inputs["".join(letters)] = letters
        return [self._example(skill, name, letters) for name, letters in inputs.items()]

    def _example(self, skill: str, name: str, letters: Letters) -> Example:
        answer = skill_function(skill)(letters)
        own = random.Random(f"{self.data_seed}/style/{name}").random() < self.own_style_share
        return Example(
            id=f"{skill}-{name}",
            prompt=user_turn(skill, letters),
            demonstration=STYLES[OWN_STYLE if own else self.style](answer),
            reference=" ".join(answer),
        )
