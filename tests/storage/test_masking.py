from __future__ import annotations

from typing import Any

import pytest
from jsonargparse import Namespace

from lightning_sdft.storage.masking import is_like_a_key, is_name_of_secret, masked, masked_text

KEYS = [
    "sk-easily-found-0123456789abcdef",
    "sk-proj-AbC123",
    "hf_AbCdEfGhIjKlMnOpQrStUvWx",
    "ghp_0123456789abcdefABCDEF",
    "github_pat_11ABCDEFG0abcdefghij",
    "AIzaSyA-0123456789abcdefghijk",
    "AKIAIOSFODNN7EXAMPLE",
    "0123456789abcdef0123456789abcdef",
    "q7Rk2Zb9Xw4Lm8Tn1Vc5",
]
NAMES = ["OPENAI_API_KEY", "JUDGE_KEY", "key", "HF_TOKEN", "hf_token_of_our_group_2", "MY_GROUP_2_KEY_FOR_JUDGES_1"]


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_not_taken_for_names(key: str) -> None:
    assert is_like_a_key(key)
    for text in (f"Namespace(api_key_variable='{key}', n=1)", f'{{"token": "{key}"}}', f"--chat.api_key {key} --x=1"):
        assert key not in masked_text(text)
        assert "***" in masked_text(text)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_not_taken_for_keys(name: str) -> None:
    assert not is_like_a_key(name)


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *((name, True) for name in ("api_key", "logger.init_args.api_key", "password", "hf_token", "token", "apikey")),
        *((name, False) for name in ("pad_token", "max_tokens", "skip_tokens", "tokenizer", "key", "id_column")),
    ],
)
def test_names_of_secrets(name: str, is_secret: bool) -> None:
    assert is_name_of_secret(name) is is_secret


@pytest.mark.parametrize(
    "text",
    ["max_tokens=3, pad_token='<pad>'", "api_key_variable='JUDGE_KEY'", "api_key=None", "http://localhost:8000/v1", ""],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked_text(text) == text


def test_any_value_under_the_name_of_a_secret_is_masked() -> None:
    assert masked_text("password='it\\'s me', n=1") == "password=***, n=1"
    assert masked_text('{"api_key": "x y", "n": 1}') == '{"api_key": ***, "n": 1}'
    assert masked_text("api_key: hush\nn: 1") == "api_key: ***\nn: 1"
    assert masked_text("https://me:hush@host/v1 and x@y") == "https://***@host/v1 and x@y"


def test_settings_are_masked_in_a_copy() -> None:
    settings = Namespace(
        chat=Namespace(api_key="hush", base_url="http://me:hush@host", max_tokens=3),
        more=[{"token": "hush", "api_key_variable": "JUDGE_KEY", "pad_token": "<pad>"}],
    )
    before: Any = settings.clone()
    found = masked(settings)
    assert settings == before
    assert found.chat == Namespace(api_key="***", base_url="http://***@host", max_tokens=3)
    assert found.more == [{"token": "***", "api_key_variable": "JUDGE_KEY", "pad_token": "<pad>"}]
