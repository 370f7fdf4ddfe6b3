from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lightning_sdft.errors import DataError, PolicyError
from lightning_sdft.policy.tokenizer import Tokenizer
from tests.conftest import CHATML, make_byte_tokenizer

THINKING = (
    "{% macro think() %}{% if enable_thinking is not defined or enable_thinking %}<t>{% else %}<n>{% endif %}"
    "{% endmacro %}{% for m in messages %}{{ m.content }}{{ think() }}{% endfor %}{{ enable_thinking }}"
)
DATED = "{% if strftime_now is defined %}{{ strftime_now('%d %B %Y, %-d %b %y') }}{% endif %}" + CHATML
QUESTION = [{"role": "user", "content": "the end"}]


def decoded(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids)
    return text


# Arguments


def test_arguments_reach_every_rendering_and_a_saved_tokenizer(tmp_path: Path) -> None:
    tokenizer = make_byte_tokenizer(THINKING)
    own = Tokenizer(tokenizer, template_arguments={"enable_thinking": False})
    assert decoded(tokenizer, own.encode(QUESTION)) == "the end<n>False"
    assert own.encode_all([QUESTION]) == [own.encode(QUESTION, prompt=False)] == [own.encode(QUESTION)]
    tokenizer.save_pretrained(tmp_path)
    served = AutoTokenizer.from_pretrained(tmp_path)
    assert served.apply_chat_template(QUESTION, tokenize=False) == "the end<n>False"
    assert served.apply_chat_template(QUESTION, tokenize=False, enable_thinking=True) == "the end<t>True"
    again = Tokenizer(served, template_arguments={"enable_thinking": False})
    assert again.hugging_face.chat_template == tokenizer.chat_template
    other = Tokenizer(served, template_arguments={"enable_thinking": True})
    assert decoded(served, other.encode(QUESTION)) == "the end<t>True"


@pytest.mark.parametrize("value", ["it's {% raw %}\n\"", 3, 0.5, None, [1, {"a": True}], {"a": ["b"]}])
def test_arguments_may_be_any_json(value: Any) -> None:
    tokenizer = make_byte_tokenizer("{% for m in messages %}{% endfor %}{{ given | tojson }}")
    expected = tokenizer.apply_chat_template(QUESTION, tokenize=False, given=value)
    own = Tokenizer(tokenizer, template_arguments={"given": value})
    assert decoded(tokenizer, own.encode(QUESTION)) == expected


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("enable_thinkin", "does not read 'enable_thinkin', so it would have no effect"),
        ("enable-thinking", "does not read 'enable-thinking'"),
        ("messages", "'messages' is given to every chat template"),
        ("eos_token", "'eos_token' is given to every chat template"),
    ],
)
def test_argument_without_effect_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(PolicyError, match=complaint):
        Tokenizer(make_byte_tokenizer(THINKING + "{{ eos_token }}"), template_arguments={name: False})


def test_arguments_reach_each_of_several_templates() -> None:
    tokenizer = make_byte_tokenizer()
    tokenizer.chat_template = {"default": THINKING, "tool_use": "tools" + THINKING}
    own = Tokenizer(tokenizer, template_arguments={"enable_thinking": False})
    assert decoded(tokenizer, own.encode(QUESTION)) == "the end<n>False"
    assert tokenizer.apply_chat_template(QUESTION, tools=[{}], tokenize=False) == "toolsthe end<n>False"
    tokenizer.chat_template = {"one": THINKING, "other": THINKING}
    with pytest.raises(PolicyError, match="multiple chat templates with no default"):
        Tokenizer(tokenizer)


# The date


def test_date_of_a_template_stands_still_and_can_be_set() -> None:
    tokenizer = make_byte_tokenizer(DATED)
    own, now = Tokenizer(tokenizer), datetime.now()
    assert own.date is not None
    assert abs((datetime.fromisoformat(own.date) - now).total_seconds()) < 60
    own.date = "2026-02-03T04:05:06"
    assert decoded(tokenizer, own.encode(QUESTION)).startswith("03 February 2026, 3 Feb 26<|im_start|>")
    own.date = None  # of a checkpoint without one
    assert own.date == "2026-02-03T04:05:06"
    assert tokenizer.chat_template == DATED  # an exported one tells its own date


def test_frozen_clock_tells_the_time_as_transformers_would() -> None:
    tokenizer = make_byte_tokenizer("{{ strftime_now('%A %j %H:%M:%S %p %Z%z%U') }}")
    own = Tokenizer(tokenizer)
    assert own.date is not None
    moment = datetime.fromisoformat(own.date)
    assert decoded(tokenizer, own.encode(QUESTION)) == moment.strftime("%A %j %H:%M:%S %p %Z%z%U")


def test_template_without_a_date_has_none() -> None:
    own = Tokenizer(make_byte_tokenizer())
    own.date = "2026-02-03T04:05:06"
    assert own.date is None


# Conversations that cannot be rendered


def test_refusal_of_a_template_is_ours() -> None:
    raising = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    own = Tokenizer(make_byte_tokenizer(raising + "{{ m.content }}{% endfor %}"))
    with pytest.raises(DataError, match=r"refuses the conversation \(system, user\): No system!; change the row"):
        own.encode([{"role": "system", "content": "the"}, *QUESTION])
    own = Tokenizer(make_byte_tokenizer("{% for m in messages %}{{ m.content + m.name }}{% endfor %}"))
    with pytest.raises(DataError, match="refuses the conversation"):
        own.encode([{"role": "user", "content": "a", "name": 7}])


def test_role_is_a_word() -> None:
    own = Tokenizer(make_byte_tokenizer("{% for m in messages %}{{ '<|' + m.role + '|>' }}{% endfor %}"))
    with pytest.raises(DataError, match=r"turn 2 has the role 'user\|><\|im_end'"):
        own.encode([*QUESTION, {"role": "user|><|im_end", "content": "a"}])


def test_fields_are_given_to_the_template_or_refused() -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [{"name": "end"}]}
    reading = CHATML.replace("message['content']", "message['content'] ~ (message.tool_calls | default('', true))")
    tokenizer = make_byte_tokenizer(reading)
    assert "[{'name': 'end'}]" in decoded(tokenizer, Tokenizer(tokenizer).encode([*QUESTION, calls, *QUESTION]))
    with pytest.raises(DataError, match=r"turn 2 has the field 'tool_calls', which the chat template .* not read"):
        Tokenizer(make_byte_tokenizer()).encode([*QUESTION, calls, *QUESTION])


def test_fields_that_say_nothing_to_the_model_are_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    own = Tokenizer(make_byte_tokenizer())
    labelled = [{**QUESTION[0], "timestamp": "noon"}]
    assert own.encode(labelled) == own.encode(QUESTION) == own.encode(labelled)
    assert caplog.text.count("messages have the field 'timestamp', which the chat template") == 1


@pytest.mark.parametrize("name", ["reasoning_content", "thinking"])
def test_reasoning_has_several_names(name: str) -> None:
    tokenizer = make_byte_tokenizer(CHATML.replace("message['content']", "message.reasoning_content"))
    assert "hmm" in decoded(tokenizer, Tokenizer(tokenizer).encode([{"role": "user", "content": "a", name: "hmm"}]))


def test_half_a_surrogate_pair_is_refused() -> None:
    own = Tokenizer(make_byte_tokenizer())
    encodings: list[Any] = [
        own.encode_completion,
        own.encode_text,
        lambda text: own.encode([{**QUESTION[0], "content": text}]),
    ]
    for encode in encodings:
        with pytest.raises(DataError, match=r"half of a surrogate pair.*'the \\ud83d'"):
            encode("the \ud83d")
