"""Uploads an exported folder to the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from lightning_sdft.errors import HubError, SettingError
from lightning_sdft.storage.masking import MASK, masked_text

__all__ = ["check_push", "push_folder"]

UPLOADED = (
    "*.model",
    "*.py",
    "*.safetensors",
    "*.safetensors.index.json",
    "README.md",
    "adapter_config.json",
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""The files of a model, an adapter and a tokenizer; what else lies in the folder is not uploaded."""

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")

QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
"""An address with a query, which may hold a signature."""


def check_push(repository: str | None, private: bool) -> None:
    """Ask the hub whether it will take an upload, before anything is computed for it.

    Args:
        repository: The repository, as ``owner/name``; ``None`` if nothing is to be uploaded.
        private: Whether others must not see it.

    Raises:
        SettingError: If the name has another form, or is missing.
        HubError: If there is no token, if the hub refuses it or cannot be reached, or if a repository that must be
            private is public.
    """
    if repository is None:
        if private:
            raise SettingError("private=true is about an upload; give push=OWNER/NAME too")
        return
    if not NAME.fullmatch(repository):
        raise SettingError(f"push={repository} is no name of a repository; give OWNER/NAME, such as me/my-model")
    api = HfApi()
    if get_token() is None:
        raise HubError(f"there is no token for {api.endpoint}; {_how_to_get_a_token(api)}")
    with _refusing(api, repository):
        api.whoami()
        try:
            public = not api.model_info(repository).private
        except RepositoryNotFoundError:
            return
    if private and public:
        raise HubError(
            f"{repository} is public, and private=true would not change that; make it private at "
            f"{api.endpoint}/{repository}/settings, or choose another name"
        )


def push_folder(folder: str, repository: str, private: bool) -> str:
    """Upload the files of a model to the hub, as one commit.

    An upload that was interrupted goes on where it ended if it is begun again: the hub keeps the large files that it
    has, and the commit comes last.

    Args:
        folder: The folder.
        repository: The repository, as ``owner/name``. It is made if there is none.
        private: Whether to make it so that others cannot see it.

    Returns:
        The address of the repository.

    Raises:
        HubError: If the hub refuses an upload or cannot be reached, or if an adapter stands on a model that others
            do not have.
    """
    _check_base(Path(folder))
    api = HfApi()
    files = sorted({path for pattern in UPLOADED for path in Path(folder).glob(pattern) if path.is_file()})
    with _refusing(api, repository, f"; {folder} is whole, so go on with: hf upload {repository} {folder}"):
        # None leaves it to the owner's settings, which may make new repositories private.
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        api.create_commit(
            repository,
            [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files],
            commit_message="Upload a model trained with lightning_sdft",
        )
    return str(url)


def _check_base(folder: Path) -> None:
    """Refuse an adapter that names a folder of this machine, which nobody else could load, nor should read."""
    path = folder / "adapter_config.json"
    base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"] if path.is_file() else None
    if base is not None and Path(base).exists():
        raise HubError(
            f"the adapter in {folder} stands on {base}, which others do not have; export it with model=OWNER/NAME of "
            "the hub, or without adapter=true"
        )


@contextmanager
def _refusing(api: HfApi, repository: str, then: str = "") -> Iterator[None]:
    """Say what the hub or the network says, in one line and without secrets."""
    try:
        yield
    except Exception as error:  # huggingface_hub and the HTTP client under it each raise their own
        origin = _origin(error)
        response: Any = getattr(origin, "response", None)
        status = None if response is None else response.status_code
        if status == 401:
            problem = f"{api.endpoint} does not accept the token; {_how_to_get_a_token(api)}"
        elif status == 403:
            problem = f"the token may not write to {repository}; {_how_to_get_a_token(api)}"
        else:
            problem = f"{api.endpoint} did not take {repository} ({_plain(origin)})"
        raise HubError(problem + then) from None  # whose traceback may hold the token


def _origin(error: BaseException) -> BaseException:
    """The error with the hub's answer, or the one that all others come from."""
    while not hasattr(error, "response") and error.__cause__ is not None:
        error = error.__cause__
    return error


def _plain(error: BaseException) -> str:
    text = " ".join(str(error).split())
    token = get_token()
    return masked_text(QUERY.sub(r"\1", text if token is None else text.replace(token, MASK))) or type(error).__name__


def _how_to_get_a_token(api: HfApi) -> str:
    return f"make one with write access at {api.endpoint}/settings/tokens, and set HF_TOKEN or run `hf auth login`"
