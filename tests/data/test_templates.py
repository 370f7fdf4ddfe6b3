from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.data.templates import (
    AUTHORS_TEMPLATE,
    LAPTOP_TEMPLATE,
    PAPER_TEMPLATE,
    SDPO_TEMPLATE,
    TEMPLATES,
    PrivilegedContext,
    check_parts,
    informed_messages,
    teacher_messages,
    template_fields,
)
from lightning_sdft.records import Example, text_of

EXAMPLE = Example(
    "a",
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Why?"},
    ],
    demonstration="Because.",
    context="A long article.",
)

AUTHORS = """
Why?

This is an example for a response to the question:
Because.

Now answer with a response of your own, including the thinking process.
"""

PAPER = """Why?

This is an example for a response to the question:

Because.

Now answer with a response of your own, including the thinking process:"""


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (AUTHORS_TEMPLATE, AUTHORS),
        (PAPER_TEMPLATE, PAPER),
        (LAPTOP_TEMPLATE, "Why? example Because. now"),
        (TEMPLATES["none"], "Why?"),
    ],
)
def test_templates_read_as_published(template: str, text: str) -> None:
    assert teacher_messages(EXAMPLE, template)[-1] == {"role": "user", "content": text}


def test_only_the_last_user_turn_changes() -> None:
    messages = teacher_messages(EXAMPLE, AUTHORS_TEMPLATE)
    assert messages[:-1] == EXAMPLE.prompt[:-1]
    assert EXAMPLE.prompt[-1]["content"] == "Why?"


def test_further_fields_of_the_last_turn_are_kept() -> None:
    turn: Any = {"role": "user", "content": "Why?", "name": "Ann"}
    assert teacher_messages(Example("a", [turn]), "So: {prompt}") == [{**turn, "content": "So: Why?"}]


def test_default_templates_show_what_their_context_names() -> None:
    assert TEMPLATES["demonstration"] is AUTHORS_TEMPLATE
    for context, template in TEMPLATES.items():
        text = teacher_messages(EXAMPLE, template)[-1]["content"]
        assert ("Because." in text) == (context in ("demonstration", "both"))
        assert ("A long article." in text) == (context in ("article", "both"))
        assert text.count("Why?") == 1


def test_data_is_never_read_as_a_template() -> None:
    example = Example("a", [{"role": "user", "content": "{demonstration} {0} {"}], "{prompt} }")
    assert teacher_messages(example, LAPTOP_TEMPLATE)[-1]["content"] == "{demonstration} {0} { example {prompt} } now"


@pytest.mark.parametrize("context", TEMPLATES)
def test_default_templates_have_the_placeholders_of_their_context(context: PrivilegedContext) -> None:
    expected = {
        "demonstration": {"prompt", "demonstration"},
        "article": {"prompt", "context"},
        "both": {"prompt", "demonstration", "context"},
        "none": {"prompt"},
    }
    assert template_fields(TEMPLATES[context], context) == expected[context]


@pytest.mark.parametrize(
    ("template", "context"),
    [
        ("{prompt}", "demonstration"),
        ("{demonstration}", "demonstration"),
        ("{prompt} {demonstration} {context}", "demonstration"),
        ("{prompt} {demonstration} {}", "demonstration"),
        ("{prompt} {demonstration}", "none"),
        ("{prompt} {demonstration}", "article"),
        ("{prompt} {context}", "both"),
        ("{question} {demonstration}", "demonstration"),
    ],
)
def test_placeholders_that_do_not_fit_the_context_are_refused(template: str, context: PrivilegedContext) -> None:
    with pytest.raises(ValueError, match=rf"has the placeholders \[.*\], but privileged_context={context} calls for"):
        template_fields(template, context)


def test_doubled_braces_are_braces() -> None:
    assert template_fields("{{json}} {prompt} {demonstration}", "demonstration") == {"prompt", "demonstration"}
    text = teacher_messages(EXAMPLE, "{{json}} {prompt} {demonstration}")[-1]["content"]
    assert text == "{json} Why? Because."


# Templates in parts, which are filled after the student has answered

TOLD = """Why?

Correct solution:

Because.



The following is feedback from your unsuccessful earlier attempt:

Too short.



Correctly solve the original question.
"""


def test_the_template_of_sdpo_reads_as_published() -> None:
    messages = informed_messages(EXAMPLE, SDPO_TEMPLATE, {"sibling": "Because.", "feedback": "Too short."})
    assert messages == [*EXAMPLE.prompt[:-1], {"role": "user", "content": TOLD}]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ({"demonstration": "d", "attempt": "a", "feedback": "f"}, "Why? [d] (a: f) Now."),
        ({"demonstration": "d", "attempt": "", "feedback": ""}, "Why? [d] Now."),
        ({"demonstration": "", "attempt": "a", "feedback": "f"}, "Why? (a: f) Now."),
        ({"demonstration": "", "attempt": "a", "feedback": ""}, None),
        ({"demonstration": "{prompt}", "attempt": "", "feedback": ""}, "Why? [{prompt}] Now."),
    ],
)
def test_a_part_without_what_it_shows_is_left_out(shown: dict[str, str], text: str | None) -> None:
    messages = informed_messages(
        EXAMPLE, ("{prompt}", " [{demonstration}]", " ({attempt}: {feedback})", " Now."), shown
    )
    assert (messages is None) == (text is None)
    if messages is not None:
        assert messages == [*EXAMPLE.prompt[:-1], {"role": "user", "content": text}]


def test_the_article_is_the_examples_own() -> None:
    messages = informed_messages(EXAMPLE, ["{prompt} {context}"], {"feedback": ""})
    assert messages is not None
    assert messages[-1]["content"] == "Why? A long article."


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["{prompt}"], r"has the placeholders \['prompt'\]; write \{prompt\} and at least one"),
        (["{feedback}"], r"has the placeholders \['feedback'\]"),
        (["{prompt}", "{solution}"], r"has the placeholders \['prompt', 'solution'\]"),
        (
            ["{prompt}", "{feedback"],
            "close the braces of {prompt}, {demonstration}, {sibling}, {context}, {attempt}, {feedb",
        ),
        ("{prompt} {feedback}", "is one text; give a list of parts"),
    ],
)
def test_parts_that_cannot_be_filled_are_refused(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_parts(parts)


def test_parts_are_read_together() -> None:
    assert check_parts(SDPO_TEMPLATE) == {"prompt", "sibling", "feedback"}
    assert check_parts(["{{json}} {prompt}", "{attempt}"]) == {"prompt", "attempt"}


def test_images_stay_where_they_are_with_the_template_around_them() -> None:
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "why {this}?"}]
    example = Example("a", [{"role": "system", "content": "s"}, {"role": "user", "content": parts}], "{so}", "c")

    first, last = teacher_messages(example, "{{see}} {prompt} then {demonstration}")

    assert first == example.prompt[0]
    assert text_of(last["content"]) == "{see} [image a.png] why {this}? then {so}"
    assert parts[0] in last["content"]


def test_images_stay_where_they_are_in_a_template_in_parts_too() -> None:
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "why {this}?"}]
    example = Example("a", [{"role": "user", "content": parts}], None, None)
    template = ["{prompt}", " so: {sibling}", " not: {attempt}"]

    messages = informed_messages(example, template, {"sibling": "{b}", "attempt": ""})

    assert messages is not None
    assert text_of(messages[0]["content"]) == "[image a.png] why {this}? so: {b}"
    assert parts[0] in messages[0]["content"]
