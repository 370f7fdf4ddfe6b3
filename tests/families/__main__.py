"""Trains a tiny model of every causal family of transformers, and writes a page about those that work.

What has to hold of a family: the policy's logits are the model's (or it is refused by name), greedy rollouts of ragged
prompts are those of each prompt alone, decoding in buffers of a fixed size (as on a GPU) gives equal logits, two steps
of SDFT, and an export that reads back as it was.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_sdft.commands.export import write_model
from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.errors import PolicyError
from lightning_sdft.modules import SDFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.records import GREEDY, Example
from lightning_sdft.rollout import generate
from lightning_sdft.rollout.captured import try_out
from lightning_sdft.teacher import EMATeacher
from tests.conftest import make_tokenizer
from tests.families.tiny import FAMILIES, NotBuiltError, tiny

PROMPTS = [[7, 8, 9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19]]
EXAMPLES = [Example(str(index), [{"role": "user", "content": f"w{index} w9"}], "w21 w22 w23") for index in range(4)]


class WrongError(Exception):
    """A family that is not refused computes something wrong."""


def try_family(family: str, folder: Path) -> None:
    """Load, generate, train, export and read back a tiny model of a family.

    Raises:
        NotBuiltError: If there is no tiny model of it.
        PolicyError: If the package refuses it.
        WrongError: If it is not refused, and something is wrong.
    """
    tiny(family).save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    policy = Policy.load(str(folder / "model"))
    together = [rollout.completion for rollout in generate(policy, PROMPTS, 6, GREEDY)]
    alone = [generate(policy, [prompt], 6, GREEDY)[0].completion for prompt in PROMPTS]
    if together != alone:
        raise WrongError(f"greedy rollouts {together} are not those of each prompt alone, {alone}")
    with torch.no_grad(), evaluating(policy):
        if reason := try_out(policy, GREEDY):
            raise WrongError(reason)
    module = SDFTModule(
        str(folder / "model"), max_prompt_tokens=12, max_completion_tokens=8, max_teacher_prompt_tokens=24,
        teacher_template="{prompt} w50 {demonstration}", learning_rate=1e-3, warmup_steps=0,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_steps=2, callbacks=[EMATeacher(0.1)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, DataLoader(EXAMPLES, batch_size=2, collate_fn=MicroBatch.of))  # type: ignore[arg-type]
    loss = trainer.callback_metrics["train/loss"].item()
    if trainer.global_step != 2 or not math.isfinite(loss):
        raise WrongError(f"{trainer.global_step} steps of SDFT end with a loss of {loss}")
    trainer.save_checkpoint(folder / "trained.ckpt")
    write_model(str(folder / "export"), str(folder / "trained.ckpt"))
    write_model(str(folder / "teacher"), str(folder / "trained.ckpt"), weights="teacher", dtype="bfloat16")


def verdict(family: str) -> tuple[str, str]:
    """What became of a family, and why."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            try_family(family, Path(folder))
        except NotBuiltError as error:
            return "not tried", str(error)
        except PolicyError as error:
            return "refused", str(error).replace(f"'{folder}/model'", "it")
        except Exception as error:
            return "wrong", f"{type(error).__name__}: {error}"
    return "works", ""


def table(verdicts: dict[str, tuple[str, str]]) -> str:
    """The page of the docs."""
    kinds = {kind: [name for name, (found, _) in verdicts.items() if found == kind] for kind in ("works", "not tried")}
    refused = [(name, why) for name, (found, why) in verdicts.items() if found == "refused"]
    rows = "\n".join(f"| `{name}` | {re.split('; |[.] | [(]with', why)[0]} |" for name, why in refused)
    return f"""# Model families

`make test-families` makes a tiny random model of each of the {len(verdicts)} causal families of transformers
{version("transformers")} from its config, and compares logits, generates from prompts of different lengths, takes two
steps of SDFT, exports student and teacher and reads them back.

## {len(kinds["works"])} work

{", ".join(f"`{name}`" for name in kinds["works"])}

## {len(refused)} are refused by name when they are loaded

| family | why |
| --- | --- |
{rows}

## {len(kinds["not tried"])} were not tried

There is no tiny model of them by the sizes in `tests/families/tiny.py`, which says nothing about large ones.

{", ".join(f"`{name}`" for name in kinds["not tried"])}
"""


def main() -> None:
    """Try the families that are named, or all; exits with 1 if one of them is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=FAMILIES)
    parser.add_argument("--out", type=Path, help="where to write the page")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    verdicts: dict[str, tuple[str, str]] = {}
    for family in arguments.families:
        verdicts[family] = verdict(family)
        print(f"{family}: {': '.join(filter(None, verdicts[family]))}", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(table(verdicts), encoding="utf-8")
    if any(kind == "wrong" for kind, _ in verdicts.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
