"""Entries of ToolAlpaca that something is wrong with, and how they are named."""

import pytest

from lightning_sdft.data.tool_use import ToolUseDataModule
from lightning_sdft.errors import DataError
from tests.data.alpaca_entries import BOTH, HALL, LIST, PLANTS, call, evaluated, examples_of, run, trained, write

__all__ = ["write"]


def without(entry, column):
    return {key: value for key, value in entry.items() if key != column}


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (without(evaluated(HALL), "Name"), ": no column 'Name'"),
        (without(evaluated(HALL), "NLDocumentation"), ", instruction 1 of 'Plants': no column 'NLDocumentation'"),
        (evaluated(HALL, Description=None), ", instruction 1 of 'Plants': column 'Description' holds null"),
        (without(evaluated(HALL), "Golden_Answers"), ": 'Plants' has no column 'Instances'"),
        (PLANTS | {"Questions": ["Which?"]}, ": 'Plants' has no column 'Instances'"),
        (evaluated(HALL, Golden_Answers=[]), ": 'Plants' has 1 Instructions and 0 Golden_Answers"),
        (evaluated(HALL, Authentication="key"), ": column 'Authentication' holds str"),
        (evaluated(HALL, (" ", BOTH[1])), ", instruction 2 of 'Plants': empty, or no text"),
        (evaluated(HALL, (7, BOTH[1])), ", instruction 2 of 'Plants': empty, or no text"),
        (evaluated(HALL, ("Which?", [])), ", instruction 2 of 'Plants': column 'golden_answer' is empty"),
        (evaluated(("Which?", "listPlants")), ", instruction 1 of 'Plants': column 'golden_answer' holds str"),
        (
            evaluated(HALL, ("Which?", [call("listPlants"), {"Action": "stop", "Action_Input": '{"a": "a": 1}'}])),
            ", instruction 2 of 'Plants', action 2 of 'golden_answer': the Action_Input of 'stop' is no JSON object",
        ),
    ],
)
def test_names_row_and_instruction_of_a_broken_entry(write, entry, complaint):
    with pytest.raises(DataError, match=f"alpaca.json, row 2{complaint}"):
        _ = examples_of(write([evaluated(BOTH), entry]))


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("an error", "str instead of an object"),
        ({"intermediate_steps": [LIST]}, "no column 'input'"),
        (run("", LIST) | {"input": None}, "column 'input' holds null"),
        ({"input": "Which?", "intermediate_steps": 7}, "column 'intermediate_steps' holds int"),
        (run("Which?", LIST, LIST[0]), r"row 1, instruction 2 of 'Plants', step 2: not of the form \[\[action"),
        (run("Which?", ["listPlants", "fine"]), "step 1: not of the form"),
        (run("Which?", []), "step 1: not of the form"),
        (run("Which?", [["listPlants", {}, "I list."], "fine"]), "step 1: not of the form"),
        (run("Which?", [["listPlants", "{}"], "fine"]), "step 1: not of the form"),
        (run("Which?", [["listPlants", "room: hall", "I list."], "fine"]), "Action_Input of 'listPlants' is no JSON"),
        (run("Which?", [["listPlants", "[]", "I list."], "fine"]), "Action_Input of 'listPlants' is no JSON object"),
    ],
)
def test_a_broken_run_is_named_and_may_be_left_out(write, broken, complaint):
    file = write([trained(run(HALL[0], LIST), broken, run(BOTH[0], LIST))])
    with pytest.raises(DataError, match=r"alpaca.json, row 1, instruction 2 of 'Plants'.*on_bad_row=skip") as raised:
        _ = ToolUseDataModule(train=file).splits
    assert raised.match(complaint)
    examples = ToolUseDataModule(train=file, on_bad_row="skip").splits.train
    assert [example.id for example in examples] == ["alpaca-1-1", "alpaca-1-3"]


def test_evaluation_files_are_not_trained_on(write):
    with pytest.raises(DataError, match=r"row 1: 'Plants' has no column 'Instances'.*train_data.json"):
        _ = ToolUseDataModule(train=write([evaluated(HALL)])).splits
