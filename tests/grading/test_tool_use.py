import random
import re
import time

import pytest

from lightning_sdft.errors import DataError
from lightning_sdft.grading.tool_use import CorrectedToolUse, PublishedToolUse, _inputs, canonical_arguments

PUBLISHED, CORRECTED = PublishedToolUse(), CorrectedToolUse()


def gold(*calls):
    return [{"Action": name, "Action_Input": arguments} for name, arguments in calls]


def answer(*calls):
    return "\n".join(f"Action: {name}\nAction Input: {arguments}" for name, arguments in calls)


PLAY = ("play", '{"song": "Hey", "loud": true}')
STOP = ("stop", "{}")
NESTED = ("save", '{"user": "u1", "profile": {"picture": "p.jpg"}}')
WATER = ("water", '{"plant": "fern", "cups": 1}')
WATER_TOO = ("water", '{"plant": "rose", "cups": 2}')
OPTIONAL_SAVE = ("[Optional]save", NESTED[1])


# What both agree on


@pytest.mark.parametrize(
    ("response", "expected", "verdict"),
    [
        pytest.param(answer(PLAY), gold(PLAY), True, id="right"),
        pytest.param("Thought: music!\n" + answer(PLAY) + "\nDone.", gold(PLAY), True, id="text around it"),
        pytest.param('Action:play\nAction Input:{"loud":true,"song":"Hey"}', gold(PLAY), True, id="key order, blanks"),
        pytest.param('Action: play\nAction Input: {\n"song": "Hey",\n"loud": true\n}', gold(PLAY), True, id="lines"),
        pytest.param("Action: play Action Input: " + PLAY[1], gold(PLAY), True, id="on one line"),
        pytest.param("Thought: on. Action: play Action Input: " + PLAY[1], gold(PLAY), True, id="behind a thought"),
        pytest.param("Action: play (the song)\nAction Input: " + PLAY[1], gold(PLAY), True, id="remark"),
        pytest.param("Action: play\nThought: so\nAction Input: " + PLAY[1], gold(PLAY), True, id="thought between"),
        pytest.param(answer(STOP, PLAY), gold(PLAY, STOP), True, id="other order"),
        pytest.param(answer(STOP), gold(STOP), True, id="empty input"),
        pytest.param(answer(("stop", "{ }")), gold(STOP), True, id="empty input with a blank"),
        pytest.param(answer(("water", '{"plant": "fern", "cups": 1.0}')), gold(WATER), True, id="same number"),
        pytest.param(answer(("Play", PLAY[1])), gold(PLAY), False, id="other name"),
        pytest.param(answer(("play", '{"song": "Ho", "loud": true}')), gold(PLAY), False, id="other argument"),
        pytest.param(answer(("play", '{"song": "Hey"}')), gold(PLAY), False, id="argument left out"),
        pytest.param(answer(("play", '{"song": "Hey", "loud": true, "x": ""}')), gold(PLAY), False, id="one more"),
        pytest.param(answer(("play", '{"song": "Hey", "loud": "true"}')), gold(PLAY), False, id="other type"),
        pytest.param(answer(("play", "{'song': 'Hey', 'loud': True}")), gold(PLAY), False, id="single quotes"),
        pytest.param(answer(("play", '["Hey", true]')), gold(PLAY), False, id="no object"),
        pytest.param(answer(PLAY), gold(PLAY, STOP), False, id="call left out"),
        pytest.param(answer(PLAY, STOP), gold(PLAY), False, id="call too many"),
        pytest.param(answer(STOP, STOP), gold(STOP), False, id="repeated"),
        pytest.param(answer(STOP), gold(STOP, STOP), False, id="not repeated"),
        pytest.param(answer(STOP) + "\nObservation: ok\n" + answer(PLAY), gold(STOP), False, id="goes on"),
        pytest.param("Action:\nAction Input: {}", gold(STOP), False, id="no name"),
        pytest.param("Action: play\n" + answer(STOP), gold(STOP), False, id="begun and dropped"),
        pytest.param(answer(STOP) + "\nAction: play", gold(STOP), False, id="cut off"),
        pytest.param("I would stop the music.", gold(STOP), False, id="no call"),
        pytest.param("", gold(STOP), False, id="empty"),
    ],
)
def test_verdict_of_both(response, expected, verdict):
    assert PUBLISHED.grade(response, expected) is verdict
    assert CORRECTED.grade(response, expected) is verdict


# The flaws of the published scorer


@pytest.mark.parametrize(
    ("response", "expected", "right"),
    [
        pytest.param(answer(NESTED), gold(NESTED), True, id="nested object"),
        pytest.param(
            answer(("play", '{"song": "a } b"}')), gold(("play", '{"song": "a } b"}')), True, id="brace in text"
        ),
        pytest.param(answer(OPTIONAL_SAVE), gold(OPTIONAL_SAVE), True, id="optional as in the gold"),
        pytest.param(answer(("save", NESTED[1])), gold(OPTIONAL_SAVE), True, id="optional by its name"),
        pytest.param(answer(STOP), gold(STOP, OPTIONAL_SAVE), True, id="optional left out"),
        pytest.param("Thought: the Action: is to stop.\n" + answer(STOP), gold(STOP), True, id="label in a sentence"),
        pytest.param(
            answer(("play", '{"song": "Action: x Action Input: {}"}')),
            gold(("play", '{"song": "Action: x Action Input: {}"}')),
            True,
            id="label in an argument",
        ),
        pytest.param(
            answer(WATER_TOO, ("water", '{"plant": "oak", "cups": 9}'), WATER),
            gold(WATER, WATER, WATER),
            False,
            id="repeated actions overwrite each other",
        ),
        pytest.param(
            answer(("play", '{"volume": 3}'), ("light", '{"song": "Hey"}')),
            gold(("play", '{"song": "Hey"}'), ("light", '{"volume": 3}')),
            False,
            id="arguments swapped",
        ),
        pytest.param(
            'Action Input: {"a": 1}\nAction: stop', gold(("stop", '{"a": 1}')), False, id="input before action"
        ),
        pytest.param("Action: stop", gold(STOP), False, id="no input"),
        pytest.param("Action: stop\nAction Input: none", gold(STOP), False, id="input that is no JSON"),
        pytest.param("Action: stop\nAction Input: {}\nAction Input: {}", gold(STOP), False, id="two inputs"),
        pytest.param("Action: stop\nAction: stop\nAction Input: {}", gold(STOP, STOP), False, id="one input for two"),
        pytest.param(answer(("water", '{"cups": true}')), gold(("water", '{"cups": 1}')), False, id="true is not 1"),
    ],
)
def test_flaw_is_kept_in_one_and_corrected_in_the_other(response, expected, right):
    assert PUBLISHED.grade(response, expected) is not right
    assert CORRECTED.grade(response, expected) is right


def test_repeated_actions_can_be_answered_in_any_order():
    expected = gold(WATER, WATER_TOO)
    assert CORRECTED.grade(answer(WATER_TOO, WATER), expected)
    assert not PUBLISHED.grade(answer(WATER_TOO, WATER), expected)


# Optional actions


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        pytest.param(answer(STOP), True, id="absent"),
        pytest.param(answer(STOP, OPTIONAL_SAVE), True, id="present with prefix"),
        pytest.param(answer(NESTED, STOP), True, id="present without prefix, first"),
        pytest.param(answer(STOP, ("[Optional] save", NESTED[1])), True, id="blank behind the prefix"),
        pytest.param(answer(NESTED), False, id="required one absent"),
        pytest.param(answer(STOP, NESTED, NESTED), False, id="twice"),
        pytest.param(answer(STOP, ("save", '{"user": "u2"}')), False, id="other arguments"),
        pytest.param(answer(("[Optional]stop", "{}")), False, id="prefix before the required one"),
    ],
)
def test_optional_actions(response, verdict):
    assert CORRECTED.grade(response, gold(STOP, OPTIONAL_SAVE)) is verdict


def test_required_and_optional_call_of_the_same_action():
    expected = gold(NESTED, OPTIONAL_SAVE)
    assert [CORRECTED.grade(answer(*[NESTED] * count), expected) for count in range(4)] == [False, True, True, False]


# References and responses that Python stumbles over


def test_reference_without_json_is_skipped_by_one_and_never_met_in_the_other():
    expected = gold(("stop", "now"))
    assert PUBLISHED.grade(answer(STOP), expected)
    assert not CORRECTED.grade(answer(("stop", "now")), expected)


@pytest.mark.parametrize("grader", [PUBLISHED, CORRECTED])
@pytest.mark.parametrize(
    ("begin", "piece", "end"),
    [
        ('Action: stop\nAction Input: {"a": ', "7", "}"),
        ('Action: stop\nAction Input: {"a": ', "[", "}"),
        ("Action: stop\nAction Input: ", '{"a": ', ""),
        ("Action: stop", " ", ""),
        ("", "Action: ", ""),
        ("", "Action Input: ", ""),
        ("", "Action Input: {", ""),
        ("", "Action: stop\nAction Input: {\n", ""),
        ("", "```json\n{", ""),
        ("", "é", ""),
    ],
    ids=[
        "digits",
        "brackets",
        "braces",
        "blanks",
        "labels",
        "inputs",
        "open inputs",
        "open calls",
        "fences",
        "unicode",
    ],
)
def test_a_megabyte_of_nonsense_is_wrong_in_linear_time(grader, begin, piece, end):
    def seconds(size):
        response = begin + piece * (size // len(piece)) + end
        start = time.process_time()
        assert not grader.grade(response, gold(("stop", '{"a": 1}')))
        return time.process_time() - start

    # A quadratic search takes 64 times as long, and 64 times far more than a noisy moment.
    assert seconds(2**20) < 30 * max(seconds(2**17), 0.05)


@pytest.mark.parametrize("seed", range(20))
def test_inputs_are_those_of_the_released_pattern(seed):
    pieces = ["Action Input:", " ", "\n", "{", "}", '"a": 1', "Action: stop", "Action Input: {}", "x"]
    rng = random.Random(seed)
    for _ in range(200):
        response = "".join(rng.choices(pieces, k=rng.randrange(12)))
        assert list(_inputs(response)) == re.findall(r"Action Input:\s*({.*?})", response, re.DOTALL)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ('{"b": 1, "a": [2, 1]}', '{"a": [2, 1], "b": 1}'),
        (' {"a": 1.50} ', '{"a": 1.5}'),
        ('{"a": 1e3}', '{"a": 1000}'),
        ("{} {}", None),
        ("[]", None),
        ("", None),
    ],
)
def test_canonical_arguments(text, canonical):
    assert canonical_arguments(text) == canonical


def test_accents_and_objects() -> None:
    response = 'Action: caf\u00e9\nAction Input: {"name": "Jos\u00e9"}'
    decomposed = [{"Action": "cafe\u0301", "Action_Input": '{"name": "Jose\\u0301"}'}]
    assert CorrectedToolUse().grade(response, decomposed) is True
    assert CorrectedToolUse().grade(response, [{"Action": "café", "Action_Input": {"name": "José"}}]) is True
    assert CorrectedToolUse().grade(response, [{"Action": "cafe", "Action_Input": {"name": "José"}}]) is False


def test_references_that_are_no_calls_are_refused_before_anything_is_generated() -> None:
    for grader, bad in ((PublishedToolUse(), {"name": 1}), (CorrectedToolUse(), 3)):
        grader.check_reference([{"Action": "a", "Action_Input": "{}"}])
        for reference in (None, "a", [3], [{"Action": "a"}], [{"Action": "a", "Action_Input": bad}]):
            with pytest.raises(DataError, match="a reference like"):
                grader.check_reference(reference)
