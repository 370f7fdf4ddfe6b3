"""Reading ToolAlpaca's original format [1]: one entry per collection of tools, with all the questions about it.

[1] Tang et al., ToolAlpaca: Generalized Tool Learning for Language Models with 3000 Simulated Cases, 2023,
    https://arxiv.org/abs/2306.05301, data and formats: https://github.com/tangqiaoyu/ToolAlpaca
"""

from __future__ import annotations

import json
import logging
from typing import Any

from lightning_sdft.data.row_module import Part
from lightning_sdft.data.tables import Row, take
from lightning_sdft.errors import DataError

__all__ = ["divide_entry", "is_tool_alpaca", "prepare_entry"]

log = logging.getLogger(__name__)

ASK_USER = "getDetails"
HINT = "\nHint: "
STEP = "[[action, action input, thought with both], observation]"


def is_tool_alpaca(row: Row) -> bool:
    """Whether a row is an entry of ToolAlpaca, judging by its columns."""
    return not row.keys().isdisjoint(("NLDocumentation", "Instructions", "Instances"))


def divide_entry(entry: Row, where: str, trained: bool) -> list[Part]:
    """Divide an entry into entries of one question each.

    Training uses ``Instances``, the recorded runs of an agent. Evaluation uses ``Instructions`` with their
    ``Golden_Answers``, or the recorded runs if there are no golden answers.

    Raises:
        DataError: If there are no runs to train on, or the numbers of instructions and expected answers differ.
    """
    name = take(entry, "Name", str, where)
    questions: list[Row]
    if trained or entry.get("Golden_Answers") is None:
        if "Instances" not in entry:
            raise DataError(
                f"{where}: {name!r} has no column 'Instances', the runs that demonstrations are made of; only "
                "ToolAlpaca's train_data.json has it. Train on that file, and evaluate on one with 'Golden_Answers'"
            )
        questions = [{"Instances": [run]} for run in take(entry, "Instances", list, where)]
    else:
        instructions, answers = (take(entry, column, list, where) for column in ("Instructions", "Golden_Answers"))
        if len(instructions) != len(answers):
            raise DataError(
                f"{where}: {name!r} has {len(instructions)} Instructions and {len(answers)} Golden_Answers; give one "
                "answer per instruction"
            )
        _warn_of_unknown_keys(entry, where)
        pairs = zip(instructions, answers, strict=True)
        questions = [{"Instructions": [one], "Golden_Answers": [answer], "Instances": None} for one, answer in pairs]
    return [
        Part(entry | question, f", instruction {number} of {name!r}", f"-{number}")
        for number, question in enumerate(questions, start=1)
    ]


def prepare_entry(entry: Row, where: str) -> Row | None:
    """Convert an entry of one question to the columns of the data prepared for self-distillation, except ``prompt``.

    The demonstration is the run's thoughts and calls in order, without what the tools returned. The final answer to
    the user is left out, because the prompt does not ask for one.

    Returns:
        The row, or ``None`` for a run that has no steps or only asks the user for details; ToolAlpaca's own training
        set leaves these out too.

    Raises:
        DataError: If something is missing or has the wrong type.
    """
    name, description, documentation = (
        take(entry, column, str, where) for column in ("Name", "Description", "NLDocumentation")
    )
    row: Row = {"name": name, "description": description, "nl_documentation": documentation}
    if entry.get("Instances") is None:
        instruction = entry["Instructions"][0]
        if not isinstance(instruction, str) or not instruction.strip():
            raise DataError(f"{where}: empty, or no text; correct the instruction")
        answer = entry["Golden_Answers"][0]
        return row | {"instruction": instruction + _keys(entry, where), "golden_answer": answer}
    run = entry["Instances"][0]
    if not isinstance(run, dict):
        raise DataError(
            f"{where}: {type(run).__name__} instead of an object with input and intermediate_steps; correct the row"
        )
    taken = take(run, "intermediate_steps", list, where) if run.get("intermediate_steps") else []
    steps = [_step(step, f"{where}, step {number}") for number, step in enumerate(taken, start=1)]
    if all(action == ASK_USER for action, _, _ in steps):
        return None
    return row | {
        "instruction": take(run, "input", str, where).rsplit(HINT, 1)[0],  # the hint was meant for the simulated user
        "golden_answer": [{"Action": action, "Action_Input": given} for action, given, _ in steps],
        "golden_response": [f"Thought: {text.strip().removeprefix('Thought:').lstrip()}" for _, _, text in steps],
    }


def _step(step: Any, where: str) -> tuple[str, str, str]:
    """The action of a step, its input, and the text with which the agent called it."""
    call = step[0] if isinstance(step, list) and step else None
    if not isinstance(call, list) or len(call) != 3 or not all(isinstance(each, str) for each in call):
        raise DataError(f"{where}: not of the form {STEP}; correct it, or leave the instance out")
    return call[0], call[1], call[2]


def _keys(entry: Row, where: str) -> str:
    """The text that ToolAlpaca appends to the instruction if the tools need API keys."""
    keys = _authentication(entry, where)
    given = " ".join(f"{name}={value}" for name, value in keys.items())
    return f"\nAuthentication information: {given}" if keys else ""


def _authentication(entry: Row, where: str) -> dict[str, Any]:
    return take(entry, "Authentication", dict, where) if entry.get("Authentication") else {}


def _warn_of_unknown_keys(entry: Row, where: str) -> None:
    """Warn of expected answers with another API key than the entry's: the published files mask it in one place only."""
    keys = _authentication(entry, where)
    unknown = sum(_differs(answer, keys) for answer in entry["Golden_Answers"])
    if unknown:
        log.warning(
            "%s: %d of %d expected answers of %r have another value of %s than 'Authentication' gives, so no model can "
            "answer correctly; set 'Authentication' to the value in the answers",
            where,
            unknown,
            len(entry["Golden_Answers"]),
            entry["Name"],
            " or ".join(keys),
        )


def _differs(answer: Any, keys: dict[str, Any]) -> bool:
    try:
        given = [json.loads(action["Action_Input"]) for action in answer]
        return any(name in each and each[name] != value for each in given for name, value in keys.items())
    except (KeyError, TypeError, ValueError):  # reading the answer raises the error
        return False
