"""Why a model cannot be loaded: which of its files is missing or broken, or that the hub cannot be reached."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from lightning_sdft.errors import PolicyError, Refusal, did_you_mean

__all__ = ["explaining", "hub_problem"]

PATIENCE = 5.0
"""Seconds in which the hub has to answer."""

AGAIN = "the file is not whole: copy or download it again"
TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")
WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")


@contextmanager
def explaining(name: str, source: Mapping[str, Any], attention: str | None = None) -> Iterator[None]:
    """Turn what transformers says of a model's files into an error that names the file and what to do.

    Args:
        name: The model that is loaded inside this context.
        source: Where it is, as ``pretrained_source`` says.
        attention: The attention implementation that was asked for.

    Raises:
        PolicyError: If the model cannot be loaded because of its files, its place or a package that is missing.
    """
    try:
        yield
    except (Refusal, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = _reason(name, source, attention, error)
        if reason is None:
            if not isinstance(error, OSError | ValueError | ImportError):
                raise
            reason = f"the model {name!r} cannot be loaded: {_first_line(error)}; correct its files, or choose another"
        raise PolicyError(reason) from error


def hub_problem() -> str | None:
    """Why models cannot be got from the Hugging Face hub, or ``None`` if they can.

    The hub's own client would try each file again and again for most of a minute.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # of httpx or httpx2, as the release of huggingface_hub has it
        return f"{constants.ENDPOINT} does not answer ({_first_line(error)})"
    return None


def _reason(name: str, source: Mapping[str, Any], attention: str | None, error: Exception) -> str | None:
    """Why the model cannot be loaded, and what to do."""
    said = str(error)
    if attention is not None and ("attn_implementation" in said or "Attention" in said):
        return f"attention={attention}: {_first_line(error)}; leave it out for the best one that the model supports"
    folder = Path(source["pretrained_model_name_or_path"])
    if "gguf_file" in source:
        if isinstance(error, ImportError):
            return f"reading {name!r} needs more packages: pip install 'lightning-sdft[gguf]'"
        return f"{name!r} is no whole GGUF file ({_first_line(error)}); copy or download it again"
    if not folder.is_dir():
        if "local_files_only" not in source:
            return f"{_first_line(error)}; correct the name {name!r}, or log in with `hf auth login` if it needs that"
        return (
            f"{name!r} is no folder here and not in the cache of the hub, and {hub_problem() or 'the hub was away'}; "
            f"download it where there is a network (hf download {name} --local-dir FOLDER), and give the folder"
        )
    return _missing(folder) or next(filter(None, map(_broken, sorted(folder.iterdir()))), None) or _kind(folder)


def _missing(folder: Path) -> str | None:
    """Which files the folder of a model lacks."""
    needed = {"config.json": ["config.json"], "tokenizer (tokenizer.json)": TOKENIZERS, "weights": WEIGHTS}
    lacking = [what for what, names in needed.items() if not any(file for each in names for file in folder.glob(each))]
    if not lacking:
        return None
    return f"{str(folder)!r} has no {', no '.join(lacking)}; name a folder with all files of a Hugging Face model"


def _broken(file: Path) -> str | None:
    """What is wrong with one file of a model."""
    if file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            return f"{file}, line {error.lineno}, column {error.colno}: {error.msg}; {AGAIN}"
        except UnicodeDecodeError as error:
            return f"{file}: {error}; {AGAIN}"
    elif file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            return f"{file}: {_first_line(error)}; {AGAIN}"
    return None


def _kind(folder: Path) -> str | None:
    """That transformers does not know the kind of model that a config names."""
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind in transformers.CONFIG_MAPPING:
        return None
    return (
        f"{folder / 'config.json'}: transformers {transformers.__version__} knows no model_type {kind!r}"
        f"{did_you_mean(str(kind), transformers.CONFIG_MAPPING)}; correct it, or install a transformers that knows it"
    )


def _first_line(error: Exception) -> str:
    return next((line.strip().rstrip(".;") for line in str(error).splitlines() if line.strip()), type(error).__name__)
