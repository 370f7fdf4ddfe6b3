"""Every domain from beginning to end on real files: two steps of a method, then the evaluation of what came out.

``python -m tests.real.domains`` does so with SmolLM2-135M-Instruct (see ``tests/real/smollm2.py``) and prints what the
evaluation reports; ``test_domains.py`` with a tiny stand-in. The configs are those of ``configs/experiment``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lightning_sdft.commands.fit import main as command_line

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("LIGHTNING_SDFT_DATA", ROOT.parent / "shared" / "data"))
CONFIGS = ROOT / "configs" / "experiment"

DOMAINS = ("science", "tool_use", "medical", "knowledge")

Prepare = Callable[[Path, Path], list[str]]


def science(data: Path, folder: Path) -> list[str]:
    """SciKnowEval has no demonstrations: an expert who knows the letters writes the shortest there can be."""
    source = data / "sciknoweval_chemistry_l3" / "L3_molecule_structure_prediction.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row in rows:
        letter = row["answerKey"]
        text = row["choices"]["text"]["ABCD".index(letter)]
        row["response"] = f"<reasoning>\nIt is {text}.\n</reasoning>\n<answer>\n{letter}\n</answer>"
    written = folder / "science.jsonl"
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"--data.train={written}", "--data.validation=null", "--data.test=null"]


def tool_use(data: Path, folder: Path) -> list[str]:
    """Trains on real APIs of ToolAlpaca, with demonstrations made of the expected calls; evaluates on the paper's."""
    rows = []
    for entry in json.loads((data / "toolalpaca" / "ta_eval_real.json").read_text()):
        for instruction, actions in zip(entry["Instructions"], entry["Golden_Answers"], strict=True):
            lines = [line for action in actions for line in _call(action)]
            prompt = f"{entry['Name']}: {entry['NLDocumentation'][:1500]}\n\nQuestion: {instruction}"
            rows.append({"prompt": prompt, "golden_answer": actions, "golden_response": lines})
    written = folder / "tool_use.json"
    written.write_text(json.dumps(rows))
    test = data / "tool_use" / "tooluse_eval_68.json"
    return [f"--data.train={written}", f"--data.test={test}", "--data.on_bad_row=skip"]


def _call(action: dict[str, str]) -> list[str]:
    return [f"Action: {action['Action']}", f"Action Input: {action['Action_Input']}"]


def medical(data: Path, folder: Path) -> list[str]:
    """One file is both the training rows and the problems."""
    file = data / "medical" / "huatuo_demo.json"
    return [f"--data.{split}={file}" for split in ("train", "test")] + [
        "--data.test_questions=20",
        "--data.validation_questions=4",
    ]


def knowledge(data: Path, folder: Path) -> list[str]:
    """The articles of the package; nobody has the paper's."""
    return [
        "--data.articles=zoo/events/articles",
        "--data.train=zoo/events/questions.jsonl",
        "--data.test=null",
        "--data.test_share=0.1",
        "--data.indirect=zoo/events/indirect.jsonl",
    ]


PREPARE: dict[str, Prepare] = {"science": science, "tool_use": tool_use, "medical": medical, "knowledge": knowledge}


def run(
    domain: str, method: str, model: str, judge: list[str], data: Path, folder: Path, completion_tokens: int = 48
) -> dict[str, float]:
    """Two steps of four prompts, and the evaluation of a few questions by the checkpoint.

    Args:
        domain: Which domain.
        method: ``sft`` or ``sdft``.
        model: Folder of the model.
        judge: Arguments that say who judges the medical and the knowledge answers.
        data: Folder of the real files.
        folder: Where rows and the run are written.
        completion_tokens: Budget of demonstrations, and length at which answers are cut.

    Returns:
        What the evaluation logged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = ["--config", str(CONFIGS / f"{domain}_{method}.yaml"), *PREPARE[domain](data, folder)]
    shared += judge if domain in ("medical", "knowledge") else []
    shared += [f"--model.model={model}", f"--model.max_completion_tokens={completion_tokens}"]
    shared += ["--model.max_prompt_tokens=2048", "--model.gradient_checkpointing=false", "--model.over_budget=drop"]
    shared += ["--model.max_teacher_prompt_tokens=4096"] if method == "sdft" else []
    shared += ["--data.batch_size=4", "--data.micro_batch_size=2", "--data.evaluation_batch_size=4"]
    shared += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    shared += [f"--trainer.default_root_dir={folder}", "--trainer.enable_model_summary=false"]
    shared += ["--trainer.enable_progress_bar=false", "--trainer.logger.init_args.version=0"]
    shared += [f"--trainer.logger.init_args.save_dir={folder}", "--trainer.max_steps=2"]
    shared += ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=2", "--trainer.num_sanity_val_steps=0"]
    command_line(["fit", *shared])
    checkpoint = folder / f"{domain}_{method}" / "version_0" / "checkpoints" / "last.ckpt"
    cli = command_line(["test", *shared, f"--ckpt_path={checkpoint}"])
    return {name: value.item() for name, value in cli.trainer.callback_metrics.items()}


def main() -> None:
    from tests.real.smollm2 import model_folder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "domains")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    arguments = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"no real files at {DATA}; LIGHTNING_SDFT_DATA says where they are")
    sys.argv = sys.argv[:1]  # LightningCLI looks at it
    model = str(model_folder())
    for domain in arguments.domains:
        prompt = domain if domain in ("medical", "knowledge") else "medical"
        judge = f"{{class_path: LocalJudge, init_args: {{model: {model}, prompt: {prompt}}}}}"
        for method in ("sft", "sdft"):
            start = time.process_time()
            metrics = run(domain, method, model, [f"--data.judge={judge}"], DATA, arguments.output, 160)
            report = {"domain": domain, "method": method, **metrics, "CPU seconds": time.process_time() - start}
            print(json.dumps(report, indent=2), flush=True)


if __name__ == "__main__":
    main()
