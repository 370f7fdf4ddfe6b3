import json
import logging
from collections import Counter
from contextlib import suppress
from itertools import takewhile

import datasets
import pytest
from jsonargparse import ArgumentParser

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.tool_use import ToolUseDataModule, tool_use_prompt
from lightning_sdft.errors import DataError
from lightning_sdft.grading.tool_use import CorrectedToolUse, PublishedToolUse, canonical_arguments

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
        ({"golden_answer": []}, "row 2: column 'golden_answer' is empty"),
        ({"golden_answer": {"Action": ["a"]}}, "row 2, 'golden_answer': no column 'Action_Input'"),
        (
            {"golden_answer": {"Action": ["a", "b"], "Action_Input": ["{}"]}},
            "row 2, action 2 of 'golden_answer': column 'Action_Input' holds null",
        ),
        ({"golden_response": ["", " "]}, "row 2: column 'golden_response' must be a list of strings, not empty"),
        ({"prompt": None}, "row 2: column 'prompt' holds null"),
        ({"prompt": " "}, "row 2: example 'train-2': the prompt is empty"),
    ],
)
def test_names_file_and_row_of_a_broken_row(write, change, complaint):
    with pytest.raises(DataError, match=f"train.json, {complaint}"):
        _ = ToolUseDataModule(train=write([row(1), row(2) | change])).splits


def test_training_rows_need_demonstrations(write):
    file = write([row(1), row(2, trained=False)])
    with pytest.raises(
        DataError,
        match=r"train.json, row 2: no column 'golden_response'; did you mean golden_answer.; the columns are 'prompt'",
    ):
        _ = ToolUseDataModule(train=file).splits


def test_refuses_arguments_that_contradict():
    with pytest.raises(DataError, match=r"data.validation and data.validation_share=0.1 exclude each other"):
        ToolUseDataModule(train="a.json", validation="b.json", validation_share=0.1)
    with pytest.raises(DataError, match=r"data.validation_share=0.1 is a share of data.train"):
        ToolUseDataModule(validation_share=0.1)


UNREADABLE = [
    "{'room': 2}",
    '{"room": "room": 2}',
    '{"room": ${room from listRooms}}',
    '{"room": 2} {}',
    '["hall"]',
    "null",
    "",
]


@pytest.mark.parametrize("arguments", UNREADABLE)
@pytest.mark.parametrize("split", ["train", "test"])
def test_refuses_expected_calls_that_nobody_can_make(write, arguments, split, caplog):
    broken = row(2) | {"golden_answer": [*row(2)["golden_answer"], {"Action": "stop", "Action_Input": arguments}]}
    file = write([row(1), broken, row(3)])
    complaint = r"train.json, row 2, action 2 of 'golden_answer': the Action_Input of 'stop' is no JSON object"
    with pytest.raises(DataError, match=rf"{complaint}.*\(data.on_bad_row=skip leaves such rows out\)"):
        _ = ToolUseDataModule(**{split: file}).splits
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data.row_module"):
        splits = ToolUseDataModule(**{split: file}, on_bad_row="skip").splits
    examples = splits.train if split == "train" else splits.test[0].examples
    assert [example.id for example in examples] == ["train-1", "train-3"]
    assert "left out 1 of 3 rows" in caplog.text


def test_reads_expected_calls_by_column(write):
    calls = [{"Action": "listPlants", "Action_Input": "{}"}, {"Action": "stop", "Action_Input": '{"all": true}'}]
    by_column = {"Action": ["listPlants", "stop"], "Action_Input": ["{}", '{"all": true}']}
    file = write([row(1) | {"golden_answer": calls}, row(2) | {"golden_answer": by_column}])
    first, second = ToolUseDataModule(train=file).splits.train
    assert first.reference == second.reference == calls


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


# The graders on every row of the published files


def published_verdict(response, expected):
    """The scorer released with the paper, written anew: names as a multiset, inputs up to the first brace, merged."""
    names, given, wanted = [], {}, {}
    for rest in response.split("Action:")[1:]:
        word = "".join(takewhile(lambda letter: letter.isalnum() or letter == "_", rest.lstrip()))
        names += [word] if word else []
    for rest in response.split("Action Input:")[1:]:
        text, brace, _ = rest.lstrip().partition("}")
        if text.startswith("{") and brace:
            with suppress(ValueError):
                given.update(json.loads(text + brace))
    for action in expected:
        with suppress(ValueError):
            wanted.update(json.loads(action["Action_Input"]))
    return sorted(names) == sorted(action["Action"] for action in expected) and given == wanted


def rewrite(text):
    with suppress(ValueError):
        return json.dumps(dict(reversed(json.loads(text).items())), indent=2)
    return text


def change(text):
    with suppress(ValueError):
        given = json.loads(text)
        return json.dumps(given | {next(iter(given), "new"): "changed"})
    return "{}"


def responses(actions):
    """Responses to a question, each with whether it is right."""
    changed = actions[0] | {"Action_Input": change(actions[0]["Action_Input"])}
    renamed = actions[0] | {"Action": "x" + actions[0]["Action"]}
    rewritten = [action | {"Action_Input": rewrite(action["Action_Input"])} for action in actions]
    first, rest = actions[:1], actions[1:]
    yield "gold", respond(actions), True
    yield "other order", respond(list(reversed(actions))), True
    yield "other order of arguments, on several lines", respond(rewritten), True
    yield "thoughts", "Thought: I need a tool \u2603.\n" + respond(actions) + "\n\nNow I wait.", True
    yield "sentence", "The Action: is clear.\n" + respond(actions), True
    yield "one argument changed", respond([changed, *rest]), False
    yield "renamed", respond([renamed, *rest]), False
    yield "twice", respond(actions + first), False
    yield "goes on", respond(actions) + "\nObservation: 200\n" + respond(actions), False
    yield "left out", respond(rest), False
    yield "unfinished", respond(actions)[:-1], False
    yield "fenced", respond(actions).replace("Action Input: ", "Action Input: ```json\n"), False
    yield "single quotes", respond(actions).replace('"', "'"), all(each["Action_Input"] == "{}" for each in actions)
    yield "nothing", "", False


@pytest.mark.real
def test_graders_on_every_published_row(real_data):
    rows = json.loads((real_data / "tool_use" / "tooluse_eval_68.json").read_text())
    entries = json.loads((real_data / "toolalpaca" / "ta_eval_real.json").read_text())
    expected = [each["golden_answer"] for each in rows]
    expected += [each for entry in entries for each in entry["Golden_Answers"]]
    assert len(expected) == 68 + 114
    published, corrected = PublishedToolUse(), CorrectedToolUse()
    perfect = Counter()
    for actions in expected:
        inputs = [action["Action_Input"] for action in actions]
        broken = any(canonical_arguments(text) is None for text in inputs)
        plain = len(actions) == 1 and actions[0]["Action"].isidentifier() and not broken
        plain = plain and inputs[0] != "{}" and inputs[0].count("{") == 1
        for name, response, right in responses(actions):
            verdict = published_verdict(response, actions)
            assert published.grade(response, actions) is verdict, (name, actions)
            assert corrected.grade(response, actions) is (right and not broken), (name, actions)
            if plain and name != "sentence":  # where the published scorer has none of its flaws
                assert verdict is right, (name, actions)
            if name == "gold":
                perfect.update(published=verdict, corrected=not broken, plain=plain)
    assert perfect == {"published": 66 + 112, "corrected": 68 + 110, "plain": 119}
