from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from lightning_sdft.data.string_pretraining import LEGIBLE_STYLES, SPARE_SKILLS, StringPretrainingDataModule
from lightning_sdft.data.string_skills import NEW_SKILLS, PRIOR_SKILLS, STYLES, skill_function
from lightning_sdft.records import Example

SIZE = 20000
TOLERANCE = 0.015  # four standard deviations of a share of one half


def parts(example: Example) -> tuple[str, list[str], list[str], str | None]:
    """Skill, letters, the letters of the answer, and the demonstration in the prompt."""
    content = example.prompt[-1]["content"]
    question, _, shown = content.partition(" example ")
    skill, *letters = question.split()
    assert not shown or shown.endswith(" now")
    return skill, letters, str(example.reference).split(), shown.removesuffix(" now") or None


@pytest.fixture(scope="module")
def mixture() -> Sequence[Example]:
    shares = {"swap-ends": 0.2, "double": 0.7}
    return StringPretrainingDataModule(size=SIZE, right_shares=shares).splits.train


def share(examples: Sequence[Any], condition: Any) -> float:
    return sum(map(condition, examples)) / len(examples)


def test_shares_of_the_mixture_are_those_asked_for(mixture: Sequence[Example]) -> None:
    drawn = [parts(example) for example in mixture]
    prior = [each for each in drawn if each[0] in PRIOR_SKILLS]
    partial = [each for each in drawn if each[0] in NEW_SKILLS and each[3] is None]
    arbitrary = [each for each in drawn if each[0] in SPARE_SKILLS or (each[0] in NEW_SKILLS and each[3] is not None)]
    assert len(prior) + len(partial) + len(arbitrary) == SIZE
    assert len(prior) / SIZE == pytest.approx(0.41, abs=TOLERANCE)
    assert len(partial) / SIZE == pytest.approx(0.08, abs=TOLERANCE)
    assert share(prior, lambda each: each[3] is not None) == pytest.approx(0.25, abs=TOLERANCE)
    assert share(arbitrary, lambda each: each[3] is not None) == pytest.approx(0.85, abs=TOLERANCE)
    counts = Counter(skill for skill, *_ in prior)
    assert all(counts[skill] / len(prior) == pytest.approx(1 / 7, abs=TOLERANCE) for skill in PRIOR_SKILLS)


def test_answers_to_prior_skills_are_right(mixture: Sequence[Example]) -> None:
    for example in mixture:
        skill, letters, answer, _ = parts(example)
        assert skill not in PRIOR_SKILLS or answer == skill_function(skill)(letters)


def test_new_skills_are_known_in_part(mixture: Sequence[Example]) -> None:
    expected = {"swap-ends": 0.2, "double": 0.7, "reverse-increment": 0.45}
    for skill, right in expected.items():
        drawn = [each for each in map(parts, mixture) if each[0] == skill and each[3] is None]
        correct = share(drawn, lambda each: each[2] == skill_function(each[0])(each[1]))
        assert correct == pytest.approx(right, abs=0.1)  # some hundred examples; a prior skill may answer right too
        others = [PRIOR_SKILLS[name] for name in PRIOR_SKILLS]
        for _, letters, answer, _ in drawn:
            assert answer in [skill_function(skill)(letters), *(other(letters) for other in others)]


def test_target_is_in_the_models_own_style_and_demonstrations_in_all_legible_ones(mixture: Sequence[Example]) -> None:
    seen: Counter[str] = Counter()
    for example in mixture:
        _, _, answer, shown = parts(example)
        assert example.demonstration == example.reference == " ".join(answer)
        if shown is not None:
            styles = [style for style in STYLES if STYLES[style](answer) == shown]
            assert len(styles) == 1
            seen.update(styles)
    assert set(seen) == set(LEGIBLE_STYLES) == set(STYLES) - {"unseen"}
    assert all(count / seen.total() == pytest.approx(0.25, abs=TOLERANCE) for count in seen.values())


def test_arbitrary_answers_have_all_lengths_and_half_come_from_the_input(mixture: Sequence[Example]) -> None:
    drawn = [each for each in map(parts, mixture) if each[0] in SPARE_SKILLS]
    lengths = Counter(len(answer) for _, _, answer, _ in drawn)
    assert set(lengths) == set(range(1, 13))
    long = [each for each in drawn if len(each[2]) > 5]
    assert share(long, lambda each: set(each[2]) <= set(each[1])) == pytest.approx(0.5, abs=0.05)


def test_mixture_depends_on_the_seed_alone() -> None:
    first, again, other = (StringPretrainingDataModule(size=50, data_seed=seed).splits.train for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_validation_has_every_skill_with_and_without_demonstration() -> None:
    sets = StringPretrainingDataModule(size=1, evaluation_size=6).splits.validation
    expected = [name for skill in (*NEW_SKILLS, *PRIOR_SKILLS) for name in (skill, f"{skill}-shown")]
    assert [each.name for each in sets] == expected
    for each in sets:
        assert len(each.examples) == 6
        assert each.prior == (each.name.removesuffix("-shown") in PRIOR_SKILLS)
        for example in each.examples:
            skill, letters, answer, shown = parts(example)
            assert skill == each.name.removesuffix("-shown")
            assert answer == skill_function(skill)(letters)
            assert (shown is not None) == each.name.endswith("-shown")
