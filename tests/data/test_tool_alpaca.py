"""What is asked and shown by the questions and runs of ToolAlpaca."""

import json
import logging
from itertools import groupby

import pytest

from lightning_sdft.data.tool_use import ToolUseDataModule
from lightning_sdft.errors import DataError
from tests.data.alpaca_entries import (
    ASK,
    BOTH,
    HALL,
    LIST,
    PLANTS,
    SONGS,
    call,
    evaluated,
    examples_of,
    prompt,
    run,
    step,
    trained,
    write,
)

__all__ = ["write"]


def test_an_entry_gives_an_example_per_instruction(write):
    songs = SONGS | {"Instructions": ["Play Hey."], "Golden_Answers": [[call("play", song="Hey")]]}
    examples = examples_of(write([evaluated(HALL, BOTH), songs]))
    assert [example.id for example in examples] == ["alpaca-1-1", "alpaca-1-2", "alpaca-2-1"]
    assert [example.prompt for example in examples[:2]] == [prompt(HALL[0]), prompt(BOTH[0])]
    assert "Name: Songs\n" in examples[2].prompt[0]["content"]
    assert "Documentation:\nplay: Plays.\n\nUse the" in examples[2].prompt[0]["content"]
    assert [example.reference for example in examples] == [HALL[1], BOTH[1], [call("play", song="Hey")]]
    assert all(example.demonstration is None for example in examples)


def test_prepared_rows_may_stand_beside_entries(write):
    prepared = {"prompt": "Which?", "name": "Plants", "golden_answer": HALL[1]}
    examples = examples_of(write([prepared, evaluated(HALL)]))
    assert [example.id for example in examples] == ["alpaca-1", "alpaca-2-1"]
    assert examples[0].prompt == [{"role": "user", "content": "Which?"}]


def test_keys_follow_the_question(write, caplog):
    entry = evaluated(HALL, ("Play.", [call("play", key="a1", user="me")]), Authentication={"key": "a1", "user": "me"})
    with caplog.at_level(logging.WARNING):
        examples = examples_of(write([entry, evaluated(BOTH, Authentication={})]))
    assert examples[0].prompt == prompt(f"{HALL[0]}\nAuthentication information: key=a1 user=me")
    assert examples[2].prompt == prompt(BOTH[0])
    assert not caplog.text


def test_warns_of_keys_that_nobody_can_know(write, caplog):
    answers = [
        [call("play", song="Hey")],
        [call("play", key="***")],
        [call("play"), call("play", key="a1")],
        "play",
        [{}],
    ]
    pairs = [(f"Question {index}", answer) for index, answer in enumerate(answers)]
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data.tool_alpaca"):
        assert len(examples_of(write([evaluated(*pairs, Authentication={"key": "***"})]), on_bad_row="skip")) == 3
    unknown_key, _ = caplog.records
    assert "row 1: 1 of 5 expected answers of 'Plants' have another value of key" in unknown_key.getMessage()


# Runs of an agent


def test_demonstrations_are_thoughts_and_calls_without_what_came_back(write):
    water = [step("First the fern.", "waterPlant", plant="fern"), step("Now the rose.", "waterPlant", plant="rose")]
    hinted = run("Which plants stand in the hall?\nHint: the hall has number 1", LIST)
    (first, second) = ToolUseDataModule(train=write([trained(hinted, run(BOTH[0], *water))])).splits.train
    assert (first.id, second.id) == ("alpaca-1-1", "alpaca-1-2")
    assert (first.prompt, second.prompt) == (prompt(HALL[0]), prompt(BOTH[0]))
    assert (first.reference, second.reference) == (HALL[1], BOTH[1])
    assert first.demonstration == 'Thought: I list them.\nAction: listPlants\nAction Input: {"room": "hall"}'
    assert second.demonstration == (
        'Thought: First the fern.\nAction: waterPlant\nAction Input: {"plant": "fern"}\n'
        'Thought: Now the rose.\nAction: waterPlant\nAction Input: {"plant": "rose"}'
    )


def test_a_thought_is_labelled_once(write):
    labelled = [["listPlants", "{}", "Thought: I list.\nAction: listPlants\nAction Input: {}\n"], ""]
    (example,) = ToolUseDataModule(train=write([trained(run("Which?", labelled))])).splits.train
    assert example.demonstration == "Thought: I list.\nAction: listPlants\nAction Input: {}"


def test_runs_that_call_no_tool_are_left_out(write, caplog):
    silent = {"input": "Which?", "output": "None."}
    entry = trained(silent, run("Which?"), run("Water it.", ASK), run("And in the hall?", ASK, LIST))
    with caplog.at_level(logging.INFO, logger="lightning_sdft.data.row_module"):
        (example,) = ToolUseDataModule(train=write([entry, PLANTS | {"Instances": []}])).splits.train
    assert example.id == "alpaca-1-4"
    assert [action["Action"] for action in example.reference] == ["getDetails", "listPlants"]
    assert "left out 3 of 4 rows" in caplog.text


def test_runs_are_evaluated_on_where_there_are_no_expected_answers(write):
    runs = [run(f"Water plant {number}.", step("So.", "waterPlant", plant=str(number))) for number in range(10)]
    file = write([trained(*runs[:5]), trained(*runs[5:], Golden_Answers=None)])
    examples = examples_of(file)
    assert [example.reference for example in examples] == [[call("waterPlant", plant=str(n))] for n in range(10)]
    assert all(example.demonstration is None for example in examples)
    held_out = ToolUseDataModule(train=file, validation_share=0.2).splits.validation[0]
    assert len(held_out.examples) == 2
    for grader in held_out.graders.values():
        assert all(grader.grade(example.demonstration, example.reference) for example in held_out.examples)


def test_expected_answers_come_before_runs_in_evaluation(write):
    file = write([trained(run("Water it.", LIST), Instructions=[BOTH[0]], Golden_Answers=[BOTH[1]])])
    assert [example.reference for example in examples_of(file)] == [BOTH[1]]
    assert [example.reference for example in ToolUseDataModule(train=file).splits.train] == [HALL[1]]


# The published files


@pytest.mark.real
def test_reads_the_published_questions_about_real_tools(real_data, caplog):
    file = real_data / "toolalpaca" / "ta_eval_real.json"
    entries = json.loads(file.read_text())
    with pytest.raises(DataError, match=r"row 11, instruction 5 of 'CurrencyBeacon'.*no JSON object.*on_bad_row=skip"):
        _ = examples_of(str(file))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        examples = {example.id: example for example in examples_of(str(file), on_bad_row="skip")}
    assert "left out 4 of 114 rows" in caplog.text
    assert sum("no model can answer correctly" in record.getMessage() for record in caplog.records) == 3
    assert len(examples) == 110
    for number, entry in enumerate(entries, start=1):
        answers = zip(entry["Instructions"], entry["Golden_Answers"], strict=True)
        for index, (instruction, answer) in enumerate(answers, start=1):
            example = examples.pop(f"ta_eval_real-{number}-{index}", None)
            if example is None:
                assert entry["Name"] == "CurrencyBeacon"
                continue
            content = example.prompt[0]["content"]
            assert f"\nDocumentation:\n{entry['NLDocumentation']}\nUse the following format:\n" in content
            assert f"\nBegin!\nQuestion: {instruction}" in content
            assert example.reference == answer
    assert not examples


@pytest.mark.real
def test_builds_the_published_prompts_from_entries(real_data, write):
    rows = json.loads((real_data / "tool_use" / "tooluse_eval_68.json").read_text())
    rows.sort(key=lambda each: each["name"])
    entries = []
    for name, group in groupby(rows, key=lambda each: each["name"]):
        same = list(group)
        assert len({(each["description"], each["nl_documentation"]) for each in same}) == 1
        entries.append(
            {
                "Name": name,
                "Description": same[0]["description"],
                "NLDocumentation": same[0]["nl_documentation"],
                "Instructions": [each["instruction"] for each in same],
                "Golden_Answers": [each["golden_answer"] for each in same],
            }
        )
    assert len(entries) == 10
    examples = examples_of(write(entries))
    assert [example.prompt[0]["content"] for example in examples] == [each["prompt"] for each in rows]
    assert [example.reference for example in examples] == [each["golden_answer"] for each in rows]
