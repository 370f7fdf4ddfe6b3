from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.data.string_skills import (
    LETTERS,
    NEW_SKILLS,
    PRIOR_SKILLS,
    STYLES,
    StringSkillsDataModule,
    skill_function,
)
from lightning_sdft.grading.string_answer import StringAnswer

WORKED = [
    ("copy", "d b p", "d b p"),
    ("reverse", "d b p c", "c p b d"),
    ("sort", "d b p b", "b b d p"),
    ("maximum", "d b n c", "n"),
    ("increment", "d b p a", "e c a b"),
    ("first-two", "d b p c", "d b"),
    ("last-two", "d b p c", "p c"),
    ("swap-ends", "d b p c", "c b p d"),
    ("double", "d b p", "d d b b p p"),
    ("reverse-increment", "d b p", "a c e"),
]


@pytest.mark.parametrize(("skill", "letters", "answer"), WORKED)
def test_skills_do_what_their_names_say(skill: str, letters: str, answer: str) -> None:
    given = letters.split()
    assert skill_function(skill)(given) == answer.split()
    assert given == letters.split()  # untouched


def test_there_are_seven_prior_skills_and_three_new_ones() -> None:
    assert [skill for skill, *_ in WORKED] == [*PRIOR_SKILLS, *NEW_SKILLS]
    assert (len(PRIOR_SKILLS), len(NEW_SKILLS)) == (7, 3)
    assert list("abcdefghijklmnop") == LETTERS


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("plain", "c b a"),
        ("sentence", "the answer is c b a ."),
        ("list", "[ c , b , a ]"),
        ("steps", "begin c then b then a done"),
        ("unseen", "( c ) ! ( b ) ! ( a ) !"),
    ],
)
def test_styles_present_the_same_letters(style: str, text: str) -> None:
    assert STYLES[style](["c", "b", "a"]) == text
    assert StringAnswer().grade(text, "c b a")


def small(**arguments: Any) -> StringSkillsDataModule:
    sizes = {"train_size": 40, "validation_size": 12, "test_size": 9, "prior_size": 5}
    return StringSkillsDataModule(**{**sizes, **arguments})


@pytest.mark.parametrize("skill", NEW_SKILLS)
def test_splits_hold_the_new_skill_and_all_prior_ones(skill: str) -> None:
    splits = small(skill=skill).splits
    assert len(splits.train) == 40
    for sets, size in ((splits.validation, 12), (splits.test, 9)):
        assert [each.name for each in sets] == [skill, *PRIOR_SKILLS]
        assert [each.prior for each in sets] == [False] + [True] * 7
        assert [len(each.examples) for each in sets] == [size] + [5] * 7


def test_validation_can_leave_the_prior_skills_to_the_test() -> None:
    whole, short = small().splits, small(validate_prior=False).splits
    assert short.validation == whole.validation[:1]
    assert (short.train, short.test) == (whole.train, whole.test)


@pytest.mark.parametrize("style", STYLES)
def test_examples_ask_for_a_skill_show_it_and_know_the_answer(style: str) -> None:
    splits = small(skill="double", style=style).splits
    sets = [*splits.validation, *splits.test]
    for example in [*splits.train, *(example for each in sets for example in each.examples)]:
        (message,) = example.prompt
        skill, *letters = message["content"].split()
        assert message["role"] == "user"
        assert 3 <= len(letters) <= 6
        assert set(letters) <= set(LETTERS)
        answer = skill_function(skill)(letters)
        assert example.reference == " ".join(answer)
        assert example.demonstration == STYLES[style](answer)
        assert example.context is None
    assert {example.prompt[0]["content"].split()[0] for example in splits.train} == {"double"}


@pytest.mark.parametrize("seed", [0, 1])
def test_no_prompt_occurs_twice_within_or_across_splits(seed: int) -> None:
    data = StringSkillsDataModule(skill="reverse-increment", data_seed=seed)
    sets = [*data.splits.validation, *data.splits.test]
    examples = [*data.splits.train, *(example for each in sets for example in each.examples)]
    assert len(examples) == 512 + 128 + 256 + 7 * 2 * 64
    assert len({example.prompt[0]["content"] for example in examples}) == len(examples)
    assert len({example.id for example in examples}) == len(examples)


def test_strings_depend_on_the_seed_alone() -> None:
    first, again, other = (small(data_seed=seed).splits for seed in (3, 3, 4))
    assert first.train == again.train
    assert first.test[3].examples == again.test[3].examples
    assert first.train != other.train
    longer = small(data_seed=3, style="list", train_size=40, test_size=30).splits
    assert [example.id for example in longer.train] == [example.id for example in first.train]


def test_default_is_a_foreign_style() -> None:
    assert StringSkillsDataModule().style == "sentence"


@pytest.mark.parametrize("skill", ["copy", "swap", ""])
def test_unknown_or_prior_skill_is_refused_with_the_choices(skill: str) -> None:
    choices = r"\['double', 'reverse-increment', 'swap-ends'\]"
    with pytest.raises(ValueError, match=rf"data.skill='{skill}' is none of the new skills {choices}"):
        StringSkillsDataModule(skill=skill)


def test_unknown_style_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"data.style='verse' is none of \['list', 'plain', .*'unseen'\]"):
        StringSkillsDataModule(style="verse")


def test_a_share_of_demonstrations_is_in_the_models_own_style() -> None:
    mixed, foreign = (small(train_size=400, own_style_share=share).splits for share in (0.25, 0.0))
    own = 0
    for example, other in zip(mixed.train, foreign.train, strict=True):
        assert example.reference is not None
        letters = example.reference.split()
        assert (example.id, example.prompt, example.reference) == (other.id, other.prompt, other.reference)
        assert example.demonstration in (STYLES["plain"](letters), STYLES["sentence"](letters))
        own += example.demonstration == STYLES["plain"](letters)
    assert 70 <= own <= 130
    shares = [small(own_style_share=share).splits.train for share in (0.0, 1.0)]
    assert [sum(each.demonstration == each.reference for each in train) for train in shares] == [0, 40]


def test_more_of_the_own_style_keeps_what_was_in_it() -> None:
    few, many = (small(own_style_share=share).splits.train for share in (0.2, 0.6))
    plain = [{each.id for each in train if each.demonstration == each.reference} for train in (few, many)]
    assert plain[0] < plain[1]


@pytest.mark.parametrize("size", [40, 3])
def test_reinvocation_trains_on_all_prior_skills_and_is_evaluated_as_the_new_one(size: int) -> None:
    new, prior = (small(train_on=kind, train_size=size).splits for kind in ("new", "prior"))
    asked = [example.prompt[0]["content"].split()[0] for example in prior.train]
    counts = [asked.count(skill) for skill in PRIOR_SKILLS]
    assert sum(counts) == len(prior.train) == size
    assert max(counts) - min(counts) <= 1
    for kind in ("validation", "test"):
        assert [each.examples for each in getattr(prior, kind)] == [each.examples for each in getattr(new, kind)]
    sets = [*prior.validation, *prior.test]
    examples = [*prior.train, *(example for each in sets for example in each.examples)]
    assert len({example.prompt[0]["content"] for example in examples}) == len(examples)


def test_what_was_learned_before_is_trained_on_beside_the_prior_skills() -> None:
    skills = ["copy", "double", "swap-ends"]
    splits = small(train_on="prior", prior_skills=skills, train_size=9).splits
    asked = [example.prompt[0]["content"].split()[0] for example in splits.train]
    assert {skill: asked.count(skill) for skill in skills} == dict.fromkeys(skills, 3)
    assert [next(iter(each.graders)) for each in splits.test] == ["swap-ends", *PRIOR_SKILLS]
    tested = {example.prompt[0]["content"] for each in splits.test for example in each.examples}
    assert not tested & {example.prompt[0]["content"] for example in splits.train}
