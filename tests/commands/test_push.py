from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from transformers import AutoModelForCausalLM

from lightning_sdft.commands.export import export
from lightning_sdft.commands.push import check_push, push_folder
from lightning_sdft.errors import HubError, SettingError
from tests.commands.hub_server import HubServer, Repository, hub

TOKEN = "a-token-like-no-other"
WEIGHTS, SHARD = b"many weights " * 5000, b"more weights " * 5000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub, and huggingface_hub set as by HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH and HF_HUB_DISABLE_XET."""
    with hub(TOKEN) as running:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like an exported one, with things beside it that are the user's own."""
    path = tmp_path / "out"
    (path / "checkpoints").mkdir(parents=True)
    (path / "model-00001-of-00002.safetensors").write_bytes(WEIGHTS)
    (path / "model-00002-of-00002.safetensors").write_bytes(SHARD)
    (path / "config.json").write_text("{}")
    (path / "README.md").write_text("---\nlicense: mit\n---\n")
    (path / ".env").write_text("SECRET=1")
    (path / "notes.txt").write_text("mine")
    (path / "checkpoints" / "other.safetensors").write_bytes(b"mine")
    return path


UPLOADED = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json", "README.md"}


def test_exported_model_arrives_as_it_is_on_disk(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(str(tmp_path / "out"), model="zoo/laptop", push="me/model", private=True)
    assert f"pushed to {server.url}/me/model" in capsys.readouterr().out
    repository = server.repositories["me/model"]
    assert repository.private
    assert len(repository.commits) == 1
    for name, content in repository.files.items():
        assert content == (tmp_path / "out" / name).read_bytes()
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "copy").num_parameters() > 700_000


def test_only_files_of_the_model_are_uploaded(server: HubServer, folder: Path) -> None:
    push_folder(str(folder), "me/model", private=False)
    assert set(server.repositories["me/model"].files) == UPLOADED
    assert not server.repositories["me/model"].private


def test_repository_that_is_there_gets_one_more_commit(server: HubServer, folder: Path) -> None:
    server.repositories["me/model"] = Repository(files={"LICENSE": b"mine"}, commits=["first"])
    check_push("me/model", private=False)
    assert push_folder(str(folder), "me/model", private=False) == f"{server.url}/me/model"
    assert set(server.repositories["me/model"].files) == {"LICENSE", *UPLOADED}
    assert len(server.repositories["me/model"].commits) == 2


def test_connection_that_is_cut_is_made_again(server: HubServer, folder: Path) -> None:
    server.resets = 1
    push_folder(str(folder), "me/model", private=False)
    assert server.repositories["me/model"].files["model-00001-of-00002.safetensors"] == WEIGHTS
    assert server.repositories["me/model"].files["model-00002-of-00002.safetensors"] == SHARD


def test_interrupted_upload_goes_on_without_sending_large_files_again(server: HubServer, folder: Path) -> None:
    server.refused_commits = 1
    with pytest.raises(HubError, match=rf"is whole, so go on with: hf upload me/model {folder}$"):
        push_folder(str(folder), "me/model", private=False)
    assert server.repositories["me/model"].files == {}
    push_folder(str(folder), "me/model", private=False)
    assert set(server.repositories["me/model"].files) == UPLOADED
    assert list(server.sent.values()) == [1, 1]


def test_a_public_repository_is_refused_if_it_must_be_private(server: HubServer) -> None:
    server.repositories["me/model"] = Repository()
    with pytest.raises(HubError, match=rf"^me/model is public, .* private at {server.url}/me/model/settings, or"):
        check_push("me/model", private=True)
    server.repositories["me/model"].private = True
    check_push("me/model", private=True)
    check_push("me/other", private=True)


def test_nothing_is_computed_without_a_token(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=rf"^there is no token for {server.url}; make one .*, and set HF_TOKEN"):
        export(str(tmp_path / "out"), model="zoo/laptop", push="me/model")
    assert not (tmp_path / "out").exists()


def test_nothing_is_computed_with_a_token_that_is_refused(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "old-token")
    with pytest.raises(HubError, match=rf"^{server.url} does not accept the token; make one"):
        export(str(tmp_path / "out"), model="zoo/laptop", push="me/model")
    assert not (tmp_path / "out").exists()


def test_token_that_may_not_write_there(server: HubServer, folder: Path) -> None:
    with pytest.raises(HubError, match=r"^the token may not write to others/model; make one with write access at"):
        push_folder(str(folder), "others/model", private=False)


def test_what_the_hub_says_is_repeated_without_token_and_signature(server: HubServer, folder: Path) -> None:
    server.echoes, server.refused_commits = True, 1
    with pytest.raises(HubError, match=r"Try later: you sent Bearer \*\*\*") as error:
        push_folder(str(folder), "me/model", private=False)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__  # --debug shows no traceback that holds the token
    assert error.value.__cause__ is None
    server.full = True
    server.large.clear()
    with pytest.raises(HubError, match=r"413 .*/large/[0-9a-f]{64}['\s]") as error:
        push_folder(str(folder), "me/model", private=False)
    assert "secretly" not in str(error.value)


def test_hub_that_cannot_be_reached_is_named(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"^http://127.0.0.1:9 did not take me/model \(.*[Cc]onnect"):
        check_push("me/model", private=False)


@pytest.mark.parametrize(
    ("name", "private", "problem"),
    [
        ("model", False, "push=model is no name of a repository; give OWNER/NAME"),
        ("me/mo del", False, "push=me/mo del is no name"),
        ("https://hub/me/model", False, "is no name of a repository"),
        (None, True, "private=true is about an upload; give push=OWNER/NAME too"),
    ],
)
def test_names_that_are_none_are_refused(name: str | None, private: bool, problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        check_push(name, private)


def test_adapter_on_a_model_that_others_do_not_have_stays_here(
    server: HubServer, folder: Path, family_folder: Callable[[str], Path]
) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(family_folder("llama"))}))
    with pytest.raises(HubError, match=r"stands on .*llama, which others do not have; export it with model=OWNER/NAME"):
        push_folder(str(folder), "me/model", private=False)
    assert server.repositories == {}
    config.write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    push_folder(str(folder), "me/model", private=False)


def test_process_with_environment_variables_alone_says_no_secret(server: HubServer, folder: Path) -> None:
    script = f"""
from lightning_sdft.commands.push import check_push, push_folder
check_push("me/model", True)
print(push_folder({str(folder)!r}, "me/model", True))
"""
    settings = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    server.resets = 1
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{server.url}/me/model\n"
    assert set(server.repositories["me/model"].files) == UPLOADED
    assert TOKEN not in done.stdout + done.stderr
