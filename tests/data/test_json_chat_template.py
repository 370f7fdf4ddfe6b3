"""What rows hold that is meant for the chat template."""

import pytest

from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.errors import DataError
from tests.data.test_json_rows import ROWS, write

__all__ = ["write"]


def test_keeps_what_messages_say_for_the_chat_template(write):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "count"}], "name": None, "thinking": ""}
    result = {"role": "tool", "content": "2", "tool_call_id": "7"}
    turns = [{"role": "user", "content": "Count."}, call, result, {"role": "user", "content": "And now?"}]
    prompt = JsonDataModule(write([{"prompt": turns, "response": "4"}])).splits.train[0].prompt
    assert prompt[1:3] == [{"role": "assistant", "content": "", "tool_calls": [{"name": "count"}]}, result]
    with pytest.raises(DataError, match=r"row 1, turn 1: column 'content' holds null"):
        JsonDataModule(write([{"prompt": [{"role": "user", "content": None}], "response": "4"}])).splits  # noqa: B018


@pytest.mark.parametrize("column", ["tools", "documents", "chat_template_kwargs"])
def test_refuses_columns_that_the_chat_template_would_not_be_given(write, column):
    rows = [ROWS[0] | {column: None}, ROWS[1] | {column: [{"name": "count"}]}]
    with pytest.raises(DataError, match=rf"birds.json, row 2: column '{column}' is for the chat template"):
        JsonDataModule(write(rows)).splits  # noqa: B018
    assert len(JsonDataModule(write(rows), on_bad_row="skip").splits.train) == 1
    assert len(JsonDataModule(write(rows), reference_column=column).splits.train) == 2
