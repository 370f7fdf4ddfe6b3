"""What `make test-wheel` does with a wheel that was installed alone: all that a newcomer does, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

EXTRAS = [
    "accelerate",
    "bitsandbytes",
    "gguf",
    "lm_eval",
    "matplotlib",
    "openai",
    "optuna",
    "peft",
    "pytest",
    "trl",
    "vllm",
]
"""Modules that are not among the core packages."""

LOAD = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("export"), AutoTokenizer.from_pretrained("export")
prompt = tokenizer.apply_chat_template([{"role": "user", "content": "copy a b c"}], add_generation_prompt=True,
    return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
"""

ABSENT = f"""
from importlib.util import find_spec
there = [name for name in {EXTRAS} if find_spec(name)]
assert not there, f"not a clean environment: {{there}}"
"""


def main(binaries: Path, built: Path) -> None:
    """Check what was built, and run the commands.

    Args:
        binaries: The folder of the environment's programs.
        built: The folder of the wheel and the sdist.
    """
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    missing = missing_from_wheel(wheel) | missing_from_sdist(sdist)
    if missing:
        sys.exit(f"not built in: {sorted(missing)}")
    print(f"{wheel.name} {wheel.stat().st_size / 2**20:.1f} MiB, {sdist.name} {sdist.stat().st_size / 2**20:.1f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = "runs/laptop_sdft/version_0/checkpoints/last.ckpt"
        run(folder, binaries / "python", "-c", ABSENT)
        run(folder, binaries / "lightning-sdft", "configs")
        run(folder, binaries / "lightning-sdft", "fit", "--config", "laptop_sdft", "--trainer.max_steps", "2")
        run(folder, binaries / "lightning-sdft", "test", "--config", "laptop_sdft", "--ckpt_path", checkpoint)
        run(folder, binaries / "lightning-sdft", "export", "--checkpoint", checkpoint, "--output", "export")
        print("answer:", run(folder, binaries / "python", "-c", LOAD))


def missing_from_wheel(wheel: Path) -> set[str]:
    """Files of the package and configs that a wheel lacks, and files that it should lack."""
    package = {f"lightning_sdft/{path}" for path in _files(ROOT / "lightning_sdft")}
    configs = {f"lightning_sdft/configs/{path}" for path in _files(ROOT / "configs")}
    with zipfile.ZipFile(wheel) as file:
        there = {name for name in file.namelist() if ".dist-info/" not in name}
    return (package | configs) ^ there


def missing_from_sdist(sdist: Path) -> set[str]:
    """Files that an sdist lacks of those that it is built from and that its tests need."""
    folders = ("lightning_sdft", "configs", "docs", "notebooks", "tests", ".ci", ".github")
    loose = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "constraints.txt")
    needed = {f"{folder}/{path}" for folder in folders for path in _files(ROOT / folder)}.union(loose)
    with tarfile.open(sdist) as file:
        return needed - {name.partition("/")[2] for name in file.getnames()}


def run(folder: str, program: Path, *arguments: str) -> str:
    """Run a program that knows nothing of this checkout and of no network; what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    began = time.monotonic()
    done = subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    print(f"{time.monotonic() - began:6.1f} s  {program.name} {arguments[0]}", flush=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def _files(folder: Path) -> set[str]:
    """The files below a folder, without what running them left there."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    left = {"__pycache__", ".ipynb_checkpoints", ".pytest_cache"}
    return {path.as_posix() for path in paths if not left.intersection(path.parts)}


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
