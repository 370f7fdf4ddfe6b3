import json
import logging
from itertools import groupby

import pytest

from lightning_sdft.data.tool_use import ToolUseDataModule
from lightning_sdft.errors import DataError

DOCUMENTATION = (
    "listPlants: Lists plants.\n"
    'Parameters: {"room": "Required. string. One of: [hall, attic]."}\n'
    "waterPlant: Waters a plant.\n"
    'Parameters: {"plant": "Required. string."}\n'
)
PLANTS = {
    "Name": "Plants",
    "Description": "Knows all {plants}",
    "Category": "Nature",
    "Documentation": "{}",
    "NLDocumentation": DOCUMENTATION,
    "Function_Description": {"listPlants": "Lists plants.", "components": ""},
}
SONGS = PLANTS | {"Name": "Songs", "NLDocumentation": "play: Plays."}


def call(name, **arguments):
    return {"Action": name, "Action_Input": json.dumps(arguments)}


def evaluated(*pairs, **columns):
    questions, answers = zip(*pairs, strict=True)
    return PLANTS | {"Instructions": list(questions), "Golden_Answers": list(answers)} | columns


def step(thought, name, **arguments):
    text = json.dumps(arguments)
    return [[name, text, f" {thought}\nAction: {name}\nAction Input: {text}"], "Status Code: 200. Response: fine"]


def run(question, *steps):
    return {"input": question, "output": "Done.", "Final Thought": "I am done.", "intermediate_steps": list(steps)}


def trained(*runs, **columns):
    return PLANTS | {"Instructions": ["Which?"], "Instances": list(runs)} | columns


HALL = ("Which plants stand in the hall?", [call("listPlants", room="hall")])
BOTH = ("Water fern and rose.", [call("waterPlant", plant="fern"), call("waterPlant", plant="rose")])
LIST = step("I list them.", "listPlants", room="hall")
ASK = step("Which room?", "getDetails", Question="Which room?")


@pytest.fixture
def write(tmp_path):
    def write(entries, name="alpaca.json"):
        path = tmp_path / name
        path.write_text(json.dumps(entries))
        return str(path)

    return write


def examples_of(file, **arguments):
    return ToolUseDataModule(test=file, **arguments).splits.test[0].examples


def prompt(question):
    return [
        {
            "role": "user",
            "content": "Your task is to answer the user's question using available tools. \n"
            "You have access to the following tools:\n"
            "Name: Plants\n"
            "Description: Knows all {plants}\n"
            "Documentation:\n"
            "listPlants: Lists plants.\n"
            'Parameters: {"room": "Required. string. One of: [hall, attic]."}\n'
            "waterPlant: Waters a plant.\n"
            'Parameters: {"plant": "Required. string."}\n'
            "\n"
            "Use the following format:\n"
            "Thought: you should always think about what to do\n"
            "Action: the action to take, should be one of the tool names.\n"
            "Action Input: the input to the action, must be in JSON format. All of the action input must be realistic "
            "and from the user.\n"
            "\n"
            "Begin!\n"
            f"Question: {question}",
        }
    ]


# Questions with expected answers


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


# Broken entries


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
    assert sum("nobody can answer right" in record.getMessage() for record in caplog.records) == 3
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
