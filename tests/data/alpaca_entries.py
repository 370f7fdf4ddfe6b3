"""Entries in the form of ToolAlpaca, invented, and what is made of them."""

import json

import pytest

from lightning_sdft.data.tool_use import ToolUseDataModule

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
