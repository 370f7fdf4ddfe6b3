import pytest

from lightning_sdft.errors import DataError
from lightning_sdft.records import Example


def user(content):
    return {"role": "user", "content": content}


def test_keeps_what_it_is_given():
    example = Example("a", [{"role": "system", "content": ""}, user("Hello?")], "Hi.", "a greeting", ["Hi"])
    assert (example.demonstration, example.context, example.reference) == ("Hi.", "a greeting", ["Hi"])
    assert example.to("cuda") is example


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ([], "no messages"),
        ([user(" \n")], "the prompt is empty"),
        ([user("Hello?"), {"role": "assistant", "content": "Hi."}], "ends in a 'assistant' turn"),
        ([{"role": "system", "content": "Be brief."}], "ends in a 'system' turn"),
    ],
)
def test_refuses_prompts_that_nobody_can_answer(prompt, complaint):
    with pytest.raises(DataError, match=f"example 'row-7'.*{complaint}"):
        Example("row-7", prompt)
