import json
import logging

import datasets
import pytest
from jsonargparse import ArgumentParser

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.example import DataError
from lightning_sdft.data.tool_use import ToolUseDataModule, tool_use_prompt
from lightning_sdft.grading.tool_use import CorrectedToolUse, PublishedToolUse

DOCUMENTATION = 'listPlants: Lists plants.\nParameters: {"room": "Required. string. One of: [hall, attic]."}\n'


def row(number, trained=True):
    instruction = f"Which plants stand in room {number}?"
    columns = {
        "prompt": tool_use_prompt("Plants", "Knows all {plants}", DOCUMENTATION, instruction),
        "instruction": instruction,
        "golden_answer": [{"Action": "listPlants", "Action_Input": json.dumps({"room": str(number)})}],
    }
    lines = ["Thought: I list them.", "Action: listPlants", f'Action Input: {{"room": "{number}"}}']
    return columns | {"golden_response": lines} if trained else columns


@pytest.fixture
def write(tmp_path):
    def write(rows, name="train.json"):
        path = tmp_path / name
        path.write_text(json.dumps(rows))
        return str(path)

    return write


def respond(actions):
    return "\n".join(f"Action: {action['Action']}\nAction Input: {action['Action_Input']}" for action in actions)


def test_prompt_is_the_published_frame():
    assert tool_use_prompt("Plants", "Knows {plants}", "listPlants: Lists plants.\n", "Which?") == (
        "Your task is to answer the user's question using available tools. \n"
        "You have access to the following tools:\n"
        "Name: Plants\nDescription: Knows {plants}\nDocumentation:\nlistPlants: Lists plants.\n\n"
        "Use the following format:\n"
        "Thought: you should always think about what to do\n"
        "Action: the action to take, should be one of the tool names.\n"
        "Action Input: the input to the action, must be in JSON format. All of the action input must be realistic and "
        "from the user.\n\n"
        "Begin!\nQuestion: Which?"
    )


def test_maps_training_rows(write):
    splits = ToolUseDataModule(train=write([row(1), row(2)])).splits
    example = splits.train[1]
    assert example.id == "train-2"
    assert example.prompt == [{"role": "user", "content": row(2)["prompt"]}]
    assert example.demonstration == 'Thought: I list them.\nAction: listPlants\nAction Input: {"room": "2"}'
    assert example.reference == row(2)["golden_answer"]
    assert not splits.validation
    assert not splits.test


def test_evaluates_with_both_graders(write):
    dev, test = (
        write([row(1, trained=False)], "dev.json"),
        write([row(n, trained=False) for n in range(3)], "test.json"),
    )
    splits = ToolUseDataModule(validation=dev, test=test).splits
    assert not splits.train
    for (evaluation_set,), count in ((splits.validation, 1), (splits.test, 3)):
        assert len(evaluation_set.examples) == count
        assert evaluation_set.name == "tool_use"
        kinds = {name: type(grader) for name, grader in evaluation_set.graders.items()}
        assert kinds == {"tool_use": PublishedToolUse, "tool_use_corrected": CorrectedToolUse}
        for grader in evaluation_set.graders.values():
            grader.update(
                [example.demonstration or respond(example.reference) for example in evaluation_set.examples],
                [example.reference for example in evaluation_set.examples],
            )
            assert grader.compute() == 1


def test_holds_out_a_share(write):
    file = write([row(n) for n in range(20)])
    splits = ToolUseDataModule(train=file, validation_share=0.2, split_seed=3).splits
    held_out = splits.validation[0].examples
    assert (len(splits.train), len(held_out)) == (16, 4)
    assert not {example.id for example in splits.train} & {example.id for example in held_out}
    assert held_out == ToolUseDataModule(train=file, validation_share=0.2, split_seed=3).splits.validation[0].examples
    assert held_out != ToolUseDataModule(train=file, validation_share=0.2, split_seed=4).splits.validation[0].examples


def test_takes_each_split_of_a_saved_dictionary(tmp_path):
    folder = str(tmp_path / "saved")
    splits = {"train": [row(1), row(2)], "validation": [row(3)], "test": [row(4)]}
    datasets.DatasetDict({key: datasets.Dataset.from_list(rows) for key, rows in splits.items()}).save_to_disk(folder)
    loaded = ToolUseDataModule(train=folder, validation=folder, test=folder).splits
    assert [example.reference for example in loaded.train] == [row(1)["golden_answer"], row(2)["golden_answer"]]
    assert loaded.validation[0].examples[0].reference == row(3)["golden_answer"]
    assert loaded.test[0].examples[0].reference == row(4)["golden_answer"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"golden_response": "Action: listPlants"}, "row 2: column 'golden_response' holds str"),
        ({"golden_response": []}, "row 2: column 'golden_response' must be a list of strings, not empty"),
        ({"golden_response": [7]}, "row 2: column 'golden_response' must be a list of strings"),
        ({"golden_answer": "listPlants"}, "row 2: column 'golden_answer' holds str"),
        ({"golden_answer": ["listPlants"]}, "row 2: action 1 of 'golden_answer' is not an object"),
        ({"golden_answer": [{"Action": "a"}]}, "row 2, action 1 of 'golden_answer': no column 'Action_Input'"),
        (
            {"golden_answer": [{"Action": "a", "Action_Input": {}}]},
            "row 2, action 1 of 'golden_answer': column 'Action_Input' holds dict",
        ),
        ({"prompt": None}, "row 2: column 'prompt' holds null"),
        ({"prompt": " "}, "row 2: example 'train-2': the prompt is empty"),
    ],
)
def test_names_file_and_row_of_a_broken_row(write, change, complaint):
    with pytest.raises(DataError, match=f"train.json, {complaint}"):
        _ = ToolUseDataModule(train=write([row(1), row(2) | change])).splits


def test_training_rows_need_demonstrations(write):
    file = write([row(1), row(2, trained=False)])
    with pytest.raises(DataError, match=r"train.json, row 2: no column 'golden_response'; the columns are 'prompt'"):
        _ = ToolUseDataModule(train=file).splits


def test_refuses_arguments_that_contradict():
    with pytest.raises(DataError, match=r"data.validation and data.validation_share=0.1 exclude each other"):
        ToolUseDataModule(train="a.json", validation="b.json", validation_share=0.1)
    with pytest.raises(DataError, match=r"data.validation_share=0.1 is a share of data.train"):
        ToolUseDataModule(validation_share=0.1)


def test_warns_of_rows_that_nobody_can_answer(write, caplog):
    broken = row(2, trained=False) | {"golden_answer": [{"Action": "listPlants", "Action_Input": "{'room': 2}"}]}
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data.tool_use"):
        _ = ToolUseDataModule(test=write([row(1, trained=False), broken], "test.json")).splits
    assert "1 of 2 test rows, the first being test-2" in caplog.text
    caplog.clear()
    _ = ToolUseDataModule(test=write([row(1, trained=False)], "test.json")).splits
    assert not caplog.text


def test_the_command_line_knows_all_arguments(write):
    parser = ArgumentParser()
    parser.add_subclass_arguments(DemonstrationDataModule, "data")
    arguments = ["--data=lightning_sdft.data.ToolUseDataModule", f"--data.train={write([row(1)])}"]
    datamodule = parser.instantiate(parser.parse_args([*arguments, "--data.batch_size=1", "--data.workers=0"])).data
    assert len(datamodule.train_dataloader()) == 1


@pytest.mark.real
def test_rebuilds_the_published_prompts(real_data):
    file = real_data / "tool_use" / "tooluse_eval_68.json"
    rows = json.loads(file.read_text())
    names = ("name", "description", "nl_documentation", "instruction")
    assert sum(tool_use_prompt(*(each[name] for name in names)) == each["prompt"] for each in rows) == len(rows) == 68


@pytest.mark.real
def test_perfect_answers_to_the_published_questions(real_data):
    (test,) = ToolUseDataModule(test=str(real_data / "tool_use" / "tooluse_eval_68.json")).splits.test
    correct = {
        name: sum(grader.grade(respond(example.reference), example.reference) for example in test.examples)
        for name, grader in test.graders.items()
    }
    assert correct == {"tool_use": 66, "tool_use_corrected": 68}
