"""Teacher prompts: how privileged text is put into the last user turn.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from string import Formatter

from lightning_sdft.data.example import Example, Message

__all__ = ["AUTHORS_TEMPLATE", "LAPTOP_TEMPLATE", "PAPER_TEMPLATE", "teacher_messages", "template_fields"]

AUTHORS_TEMPLATE = (
    "\n{prompt}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
    "Now answer with a response of your own, including the thinking process.\n"
)
"""The template of the released code, which produced the results of [1]."""

PAPER_TEMPLATE = (
    "{prompt}\n\nThis is an example for a response to the question:\n\n{demonstration}\n\n"
    "Now answer with a response of your own, including the thinking process:"
)
"""The template as printed in section 3 of [1]: other blank lines, a colon at the end."""

LAPTOP_TEMPLATE = "{prompt} example {demonstration} now"
"""The template of the laptop model, whose vocabulary has no other words."""

FIELDS = ("prompt", "demonstration", "context")


def template_fields(template: str) -> set[str]:
    """The placeholders of a template.

    Raises:
        ValueError: If ``{prompt}`` is missing, or no privileged text or an unknown placeholder is asked for.
    """
    fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    if "prompt" not in fields or not fields <= set(FIELDS):
        raise ValueError(
            f"teacher_template={template!r} has the placeholders {sorted(fields)}; it must have {{prompt}} and may "
            "have {demonstration} and {context}"
        )
    return fields


def teacher_messages(example: Example, template: str) -> list[Message]:
    """The example's conversation with the privileged text put into its last user turn; a system turn stays."""
    *earlier, last = example.prompt
    content = template.format(prompt=last["content"], demonstration=example.demonstration, context=example.context)
    return [*earlier, {"role": "user", "content": content}]
