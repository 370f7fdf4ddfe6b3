"""Graders of answers within tags, against a re-implementation of the published scorer."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import pytest

from lightning_sdft.data.science import ScienceDataModule
from lightning_sdft.grading.answer_tag import AnswerFormat, AnswerTag, final_answer

ACCURACY, FORMAT = AnswerTag(), AnswerFormat()


def published(response: str, answer: str) -> bool:
    """The published rule, written another way: split, take the last piece, then its first."""
    last = response.split("<answer>")[-1]
    return last.split("</answer>")[0].strip() == answer


@pytest.mark.parametrize(
    ("response", "right", "formatted"),
    [
        pytest.param("<reasoning>\nwater\n</reasoning>\n<answer>\nA\n</answer>", True, True, id="as asked for"),
        pytest.param("<answer>A</answer>", True, True, id="on one line"),
        pytest.param("<answer>\t A\r\n </answer>", True, True, id="white space"),
        pytest.param("<answer>B</answer>", False, True, id="other letter"),
        pytest.param("<answer>A</answer> because B", True, True, id="text after"),
        pytest.param("B\n<answer>A</answer>", True, True, id="text before"),
        pytest.param("```\n<answer>\nA\n</answer>\n```", True, True, id="code fence around"),
        pytest.param("<answer>\n```\nA\n```\n</answer>", False, False, id="code fence within"),
        pytest.param("<answer>B</answer> no: <answer>A</answer>", True, False, id="last of two wins, right"),
        pytest.param("<answer>A</answer> no: <answer>B</answer>", False, False, id="last of two wins, wrong"),
        pytest.param("<answer>A</answer><answer>", False, False, id="opened again and cut"),
        pytest.param("<answer>A</answer></answer>", True, False, id="closed twice"),
        pytest.param("<answer>B <answer>A</answer></answer>", True, False, id="nested"),
        pytest.param("<answer><answer>A</answer>", True, False, id="opened twice"),
        pytest.param("A", True, False, id="bare letter"),
        pytest.param("\nA \n", True, False, id="bare letter, white space"),
        pytest.param("Answer: A", False, False, id="no tag"),
        pytest.param("A</answer>", True, False, id="not opened"),
        pytest.param("</answer>A<answer>", False, False, id="wrong way round"),
        pytest.param("so <answer>\nA", True, False, id="not closed"),
        pytest.param("<reasoning>A", False, False, id="cut before the answer"),
        pytest.param("<answer>a</answer>", False, False, id="lower case"),
        pytest.param("<answer>A.</answer>", False, False, id="full stop"),
        pytest.param("<answer>A: 2270.7</answer>", False, False, id="restated"),
        pytest.param("<answer>(A)</answer>", False, False, id="brackets"),
        pytest.param("<answer>A B</answer>", False, False, id="two letters"),
        pytest.param("<answer></answer>", False, False, id="nothing in it"),
        pytest.param("<answer>E</answer>", False, False, id="no option"),
        pytest.param("<Answer>A</Answer>", False, False, id="other tag"),
        pytest.param("< answer >A</ answer >", False, False, id="blanks in the tag"),
        pytest.param("<answer>\N{GREEK CAPITAL LETTER ALPHA}</answer>", False, False, id="Greek"),
        pytest.param("<answer>\N{FULLWIDTH LATIN CAPITAL LETTER A}</answer>", False, False, id="full width"),
        pytest.param("<answer>\N{NO-BREAK SPACE}A\N{IDEOGRAPHIC SPACE}</answer>", True, True, id="Unicode spaces"),
        pytest.param("<answer>\N{ZERO WIDTH SPACE}A</answer>", False, False, id="zero width"),
        pytest.param("\ud83d <answer>A</answer>", True, True, id="half of a surrogate pair"),
        pytest.param("", False, False, id="empty"),
    ],
)
def test_verdicts(response: str, right: bool, formatted: bool) -> None:
    assert ACCURACY.grade(response, "A") is published(response, "A") is right
    assert FORMAT.grade(response, "A") is FORMAT.grade(response, "B") is formatted


def test_agrees_with_the_published_scorer_on_all_short_combinations() -> None:
    pieces = ["<answer>", "</answer>", "A", "B", "\n", "a."]
    for length in range(6):
        for chosen in itertools.product(pieces, repeat=length):
            response = "".join(chosen)
            assert ACCURACY.grade(response, "A") is published(response, "A"), response


def test_format_by_a_pattern() -> None:
    """The same by another way: strip the one block, and no tag may be left."""
    pieces = ["<answer>", "</answer>", "A", "D", " ", "E"]
    for length in range(6):
        for chosen in itertools.product(pieces, repeat=length):
            response = "".join(chosen)
            expected = any(
                response == f"{before}<answer>{blanks}{letter}{more}</answer>{after}"
                for before, rest in _cuts(response, "<answer>")
                for within, after in _cuts(rest, "</answer>")
                for letter in "ABCD"
                for blanks, more in [(within[: len(within) - len(within.lstrip())], within[len(within.rstrip()) :])]
                if "answer>" not in before + within + after
            )
            assert FORMAT.grade(response, "A") is expected, response


def _cuts(text: str, mark: str) -> list[tuple[str, str]]:
    return [(text[:i], text[i + len(mark) :]) for i in range(len(text)) if text.startswith(mark, i)]


@pytest.mark.parametrize("text", ["x", "<answer>", "</answer>", "<answer>A</answer>", "<answer", "<answer> ", "A\n"])
def test_time_grows_with_the_length_and_no_faster(text: str) -> None:
    def seconds(size: int) -> float:
        response = text * (size // len(text))
        measured = []
        for _ in range(5):
            start = time.perf_counter()
            verdict = ACCURACY.grade(response, "A"), FORMAT.grade(response, "A")
            measured.append(time.perf_counter() - start)
            assert verdict[0] is published(response, "A")
        return min(measured)

    # a quadratic grader would need 256 times as long for 16 times the text
    assert seconds(1 << 20) < 80 * max(seconds(1 << 16), 1e-4)


def test_rates_are_means() -> None:
    responses = ["<answer>A</answer>", "A", "<answer>B</answer>", "no"]
    for grader, rate in ((AnswerTag(), 0.5), (AnswerFormat(), 0.5)):
        grader.update(responses, ["A"] * 4)
        assert grader.compute() == rate
    assert final_answer(responses[0]) == "A"


def test_alternatives() -> None:
    assert AnswerTag().grade("<answer>B</answer>", ["A", "B"]) is True
    assert AnswerTag().grade("<answer>C</answer>", ["A", "B"]) is False


@pytest.mark.real
def test_agrees_with_the_published_scorer_on_the_real_files(real_data: Path) -> None:
    rng = random.Random(0)
    graded = 0
    for split in ("train", "test"):
        file = real_data / "science_mcq" / f"sdpo_sciknoweval_chemistry_{split}.json"
        for example in ScienceDataModule(test=str(file)).splits.test[0].examples:
            letter, other = example.reference, rng.choice("ABCD")
            text = example.prompt[-1]["content"]
            option = text.split(f"\n{letter}: ")[-1].split("\n")[0]
            answers = (letter, other, option, f"{letter}.", f"{letter}: {option}", letter.lower())
            for answer in answers:
                for response in (
                    f"<reasoning>\n{text}\n</reasoning>\n<answer>\n{answer}\n</answer>",
                    f"{text}<answer>{other}</answer><answer>{answer}</answer>{text}",
                    f"```\n<answer>{answer}</answer>\n```",
                    f"{answer}",
                    f"{text} {answer}",
                    f"<answer>{text}<answer>{answer}",
                ):
                    assert ACCURACY.grade(response, letter) is published(response, letter)
                    graded += 1
    assert graded == 2100 * 36
