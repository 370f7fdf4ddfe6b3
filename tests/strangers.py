"""What a stranger may send: files that run code of the stranger's when they are read carelessly."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from lightning_sdft.checkpoint import describe_method
from lightning_sdft.modules import SDFTModule
from tests.cli_runs import MODEL
from tests.conftest import make_model, make_tokenizer


class Intruder:
    """Makes a file when it is unpickled freely."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return Path.touch, (self.mark,)


CHECKPOINTS = ["pickle in a zip file", "bare pickle", "shards: rest", "shards: index", "shards: value", "folder"]


def checkpoint(kind: str, folder: Path, mark: Path) -> Path:
    """A checkpoint that makes the file ``mark`` when it is read carelessly."""
    path, intruder = folder / "stranger.ckpt", Intruder(mark)
    if kind == "pickle in a zip file":
        torch.save({"state_dict": {}, "lightning_sdft": {"method": "SDFTModule"}, "x": intruder}, path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps({"state_dict": {}, "x": intruder}))
    elif kind == "folder":
        path.mkdir()
        torch.save(intruder, path / "model.pt")
    else:
        sharded_checkpoint(path)
        spoil(path, kind, intruder)
    return path


def sharded_checkpoint(folder: Path) -> None:
    """A harmless one of the laptop model, as Lightning's sharding strategies write it: with all that a run reads."""
    assert not distributed.is_initialized()
    module = SDFTModule(**MODEL)
    module.configure_model()
    trained = [each for each in module.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)  # which adds to what the optimizer saves
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"state_dict": module.state_dict(), "optimizer_0": get_optimizer_state_dict(module, optimizer)}
    distributed_checkpoint.save(state, checkpoint_id=folder)
    about = describe_method("SDFTModule", "zoo/laptop")
    rest = {"pytorch-lightning_version": "2.6.4", "lightning_sdft": about, "epoch": 1, "global_step": 1}
    torch.save(rest, folder / "meta.pt")


VALUE = "optimizer_0.param_groups.0.lr"
"""What is no tensor, among the optimizer states of a sharded checkpoint."""


def spoil(folder: Path, kind: str, intruder: Intruder) -> None:
    """Put an intruder into a sharded checkpoint."""
    if kind == "shards: rest":
        torch.save({"epoch": intruder}, folder / "meta.pt")
    elif kind == "shards: index":
        (folder / ".metadata").write_bytes(pickle.dumps(intruder))
    else:
        index = pickle.loads((folder / ".metadata").read_bytes())
        key = next(key for key in index.storage_data if key.fqn == VALUE)
        value = io.BytesIO()
        torch.save(intruder, value)
        shard = folder / index.storage_data[key].relative_path
        index.storage_data[key].offset = shard.stat().st_size
        index.storage_data[key].length = len(value.getvalue())
        with shard.open("ab") as file:
            file.write(value.getvalue())
        (folder / ".metadata").write_bytes(pickle.dumps(index))


CODE = """
from pathlib import Path
from lightning.pytorch import Callback
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({mark!r}).touch()

class Config(LlamaConfig):
    model_type = "stranger"

class Model(LlamaForCausalLM):
    config_class = Config

class Tokens(PreTrainedTokenizerFast):
    pass

class Guest(Callback):
    pass
"""
"""A module that makes a file when it is imported."""


def model_folder(kind: str, folder: Path, mark: Path) -> Path:
    """A Hugging Face folder that makes the file ``mark`` when it is loaded carelessly."""
    path = folder / "stranger-model"
    model = make_model("llama")
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    (path / "stranger_code.py").write_text(CODE.format(mark=str(mark)))
    if kind == "code of the model":
        auto_map = {"AutoConfig": "stranger_code.Config", "AutoModelForCausalLM": "stranger_code.Model"}
        change(path / "config.json", model_type="stranger", auto_map=auto_map)
    elif kind == "code of the tokenizer":
        auto_map = {"AutoTokenizer": [None, "stranger_code.Tokens"]}
        change(path / "tokenizer_config.json", tokenizer_class="Tokens", auto_map=auto_map)
    else:
        (path / "model.safetensors").unlink()
        torch.save({**model.state_dict(), "more": Intruder(mark)}, path / "pytorch_model.bin")
    return path


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def module(name: str, folder: Path, mark: Path) -> Path:
    """A Python module that makes the file ``mark`` when it is imported."""
    path = folder / f"{name}.py"
    path.write_text(CODE.format(mark=str(mark)))
    return path
