from __future__ import annotations

from typing import Any

import pytest
import yaml

from lightning_sdft.commands.first_config import budgets, config_text, grading, learning_rate, sizes
from lightning_sdft.policy import Tokenizer
from lightning_sdft.records import Example
from tests.conftest import make_byte_tokenizer


def example(prompt: str, demonstration: str) -> Example:
    return Example("0", [{"role": "user", "content": prompt}], demonstration)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(make_byte_tokenizer())


def test_budgets_hold_every_example(tokenizer: Tokenizer) -> None:
    examples = [example("x" * count, "y" * (count + 10)) for count in range(20, 60)]
    found = budgets(tokenizer, examples, sampled=False)
    longest = len(tokenizer.encode(examples[-1].prompt)), len(tokenizer.encode_completion("y" * 69))
    assert longest[0] <= found.prompt < longest[0] + 16
    assert longest[1] <= found.completion < longest[1] + 16
    assert found.teacher >= found.prompt + 69
    assert found.prompt % 16 == found.completion % 16 == found.teacher % 16 == 0
    assert found.left_out == 0


def test_a_few_that_are_much_longer_are_left_out(tokenizer: Tokenizer) -> None:
    examples = [example("x" * 30, "y" * 30)] * 199 + [example("x" * 30, "y" * 3000)]
    found = budgets(tokenizer, examples, sampled=False)
    assert found.completion < 64
    assert found.left_out == 1


def test_own_responses_get_half_as_much_again(tokenizer: Tokenizer) -> None:
    examples = [example("x", "y" * 100)]
    learned, sampled = (budgets(tokenizer, examples, each).completion for each in (False, True))
    assert 1.5 * learned <= sampled < 1.5 * learned + 16
    assert budgets(tokenizer, [example("x", "y")], sampled=True).completion == 32


@pytest.mark.parametrize("rows", [5, 40, 200, 400, 3000, 100_000])
def test_a_run_has_about_a_hundred_steps_or_an_epoch(rows: int) -> None:
    found = sizes(rows, sets=2)
    held_out = round(found.held_out * rows)
    assert held_out <= min(129, rows // 5 + 1)
    assert found.steps == (rows - 2 * min(128, rows // 5)) // found.batch > 0
    assert found.epochs in {1, 10} or 60 <= found.epochs * found.steps <= 150
    assert sizes(rows, sets=0).steps == rows // sizes(rows, sets=0).batch


def test_a_column_that_is_in_the_demonstrations_is_what_answers_are_compared_with() -> None:
    rows = [{"id": str(100 + n), "team": f"team-{n % 3}", "kind": "mail"} for n in range(30)]
    examples = [example("x", f"It goes to Team-{n % 3} at once, as always, by mail") for n in range(30)]
    found = grading(rows, examples, "response", ["id", "kind", "team"])
    assert found is not None
    assert (found.column, found.contained) == ("team", True)  # the kind is the same everywhere, and says nothing
    wrong = [example("x", "It goes to somebody else, who may or may not know")] * 2 + examples[2:]
    assert grading(rows, wrong, "response", ["id", "kind", "team"]) is None


def test_short_demonstrations_are_compared_word_for_word_and_others_not_at_all() -> None:
    short = [example("x", f"word {n}") for n in range(30)]
    found = grading([{}] * 30, short, "answer", [])
    assert found is not None
    assert (found.column, found.contained) == ("answer", False)
    assert grading([{}] * 30, short, None, []) is None  # the last turns of conversations are in no column
    assert grading([{}] * 30, [example("x", "a long text in free words, as people write")] * 30, "answer", []) is None


def test_small_models_and_adapters_take_more() -> None:
    assert learning_rate(135 * 10**6, "sdft", lora=False) == 5e-5
    assert learning_rate(7 * 10**9, "sdft", lora=False) == learning_rate(135 * 10**6, "sft", lora=False) == 1e-5
    assert learning_rate(7 * 10**9, "sdft", lora=True) == learning_rate(135 * 10**6, "sdft", lora=True) == 1e-4


def test_the_config_is_yaml_whose_comments_stand_beside_what_they_are_about() -> None:
    inner: dict[str, Any] = {"a": (1, "one"), "b": None, "c": "x: y # z", "d": {"e": True}}
    text = config_text(["what", "  it is"], {"config": ["method/sdft"], "inner": inner})
    assert text.startswith("# what\n#   it is\nconfig: [method/sdft]\n")
    assert "  a: 1 # one\n" in text
    assert yaml.safe_load(text) == {
        "config": ["method/sdft"],
        "inner": {"a": 1, "c": "x: y # z", "d": {"e": True}},
    }
