from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.data.json_files import BadRow
from lightning_sdft.data.layouts import AUTO, Layout, find_layout
from lightning_sdft.errors import DataError


def turn(role: str, content: str = "x") -> dict[str, str]:
    return {"role": role, "content": content}


CHAT = [turn("user"), turn("assistant")]
SHARED = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "x"}]


def row(*columns: str, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(columns, "x"), **values}


@pytest.mark.parametrize(
    ("columns", "layout"),
    [
        (row("prompt", "response"), Layout("prompt", "response")),
        (row("prompt", "completion"), Layout("prompt", "completion")),
        (row("question", "answer"), Layout("question", "answer")),
        (row("instruction", "input", "output"), Layout("instruction", "output", input="input")),
        (row("instruction", "output"), Layout("instruction", "output")),
        (row("input", "output"), Layout("input", "output")),
        (row(messages=CHAT), Layout("messages", "messages")),
        (row(conversations=SHARED), Layout("conversations", "conversations")),
        (row("system", conversations=SHARED), Layout("conversations", "conversations", system="system")),
        (row("system_prompt", "question", "response"), Layout("question", "response", system="system_prompt")),
        (row("Question", "Complex_CoT", "Response"), Layout("Question", "Response", unused=("Complex_CoT",))),
        (row("Prompt", "prompt", "response"), Layout("prompt", "response", unused=("Prompt",))),
        (row("prompt", "answer"), Layout("prompt", "answer")),
        (row("prompt", "response", "answer"), Layout("prompt", "response", unused=("answer",))),
        (row("prompt", "id", messages=CHAT), Layout("messages", "messages", unused=("prompt", "id"))),
    ],
)
def test_known_layouts_are_found(columns: dict[str, Any], layout: Layout) -> None:
    assert find_layout([columns] * 3) == layout


@pytest.mark.parametrize(
    ("columns", "arguments", "layout"),
    [
        (row("frage", "antwort"), {"prompt": "frage", "demonstration": "antwort"}, Layout("frage", "antwort")),
        (row("frage", "answer"), {"prompt": "frage"}, Layout("frage", "answer")),
        (row("prompt", "antwort"), {"demonstration": "antwort"}, Layout("prompt", "antwort")),
        (row("prompt", "response", "completion"), {"demonstration": "completion"}, Layout("prompt", "completion")),
        (row("prompt", "response", messages=CHAT), {"prompt": "messages"}, Layout("messages", "messages")),
        (row("prompt", "response", messages=CHAT), {"prompt": "prompt"}, Layout("prompt", "response")),
        (row("prompt", "response", messages=CHAT), {"demonstration": "messages"}, Layout("messages", "messages")),
        (row("response", chat=CHAT), {"prompt": "chat"}, Layout("chat", "chat")),
        (row("response", chat=CHAT[:1]), {"prompt": "chat"}, Layout("chat", "response")),
        (row(chat=SHARED), {"prompt": "chat"}, Layout("chat", "chat")),
        (row("question", "answer", "response"), {"taken": ["answer"]}, Layout("question", "response")),
        (row("prompt", "response"), {"demonstration": None}, Layout("prompt", None)),
        (row("prompt", "note"), {"needed": False}, Layout("prompt", None)),
        (row("prompt", "response"), {"needed": False}, Layout("prompt", "response")),
        (row("prompt", messages=CHAT), {"demonstration": None}, Layout("messages", None)),
        (row("instruction", "input", "output"), {"prompt": "instruction"}, Layout("instruction", "output")),
    ],
)
def test_columns_that_are_named_win(columns: dict[str, Any], arguments: dict[str, Any], layout: Layout) -> None:
    found = find_layout([columns], **arguments)
    assert (found.prompt, found.demonstration, found.input) == (layout.prompt, layout.demonstration, layout.input)


@pytest.mark.parametrize(
    ("columns", "arguments", "problem"),
    [
        (
            row("text", "label"),
            {},
            "no layout is known in which the columns are 'text', 'label'; looked for prompt/response, .*, messages, "
            "conversations. Set data.prompt_column and data.demonstration_column",
        ),
        (
            row("prompt", "note"),
            {},
            "no column of demonstrations is known: the columns are 'prompt', 'note'; looked for 'response', "
            "'completion', 'answer', 'output'. Set data.demonstration_column, to null if there are none",
        ),
        (row("text", "response"), {"demonstration": "response"}, "no column of prompts is known.*Set data.prompt_col"),
        (row("text", "note"), {"prompt": "text"}, "no column of demonstrations is known"),
        (
            row("prompt", "response", "completion"),
            {},
            "the columns are 'prompt', 'response', 'completion', which can be read as prompt/response or "
            "prompt/completion; set data.demonstration_column",
        ),
        (row("question", "answer", "response"), {}, "question/response or question/answer; set data.demonst"),
        (row("prompt", "response", messages=CHAT), {}, "prompt/response or messages; set data.prompt_column"),
        (row("question", "query"), {"demonstration": None}, "read as question or query; set data.prompt_column"),
    ],
)
def test_unknown_and_ambiguous_layouts_are_refused(
    columns: dict[str, Any], arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=problem) as refused:
        find_layout([columns], **arguments)
    assert "\n" not in str(refused.value)


def test_the_setting_is_named() -> None:
    with pytest.raises(DataError, match=r"Set data\.evaluation\.prompt_column"):
        find_layout([row("text")], setting="data.evaluation")


def test_a_row_that_differs_changes_nothing() -> None:
    good = row("prompt", "response")
    assert find_layout([BadRow("broken"), row("remark"), *[good] * 3, row(messages=CHAT)]).columns == (
        "prompt",
        "response",
    )
    assert find_layout([good, row("prompt")]) == Layout("prompt", "response")


def test_optional_columns_may_come_late() -> None:
    rows = [row("instruction", "output")] * 100 + [row("instruction", "input", "output", "system")]
    assert find_layout(rows) == Layout("instruction", "output", "input", "system")


def test_the_text_says_what_is_taken_for_what() -> None:
    assert str(find_layout([row("id", "prompt", "response")])) == (
        "prompts are 'prompt', demonstrations are 'response'; not used: 'id'"
    )
    assert str(find_layout([row("system", messages=CHAT)])) == (
        "prompts are the turns of 'messages', demonstrations the last of them, system turns are 'system'"
    )
    assert str(find_layout([row("prompt")], demonstration=None)) == "prompts are 'prompt', no demonstrations"
    assert str(find_layout([row("instruction", "input", "output")])) == (
        "prompts are 'instruction' and 'input', demonstrations are 'output'"
    )


def test_found_is_the_default() -> None:
    assert find_layout([row("prompt", "response")], AUTO, AUTO) == find_layout([row("prompt", "response")])
