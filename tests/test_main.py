"""``python -m lightning_sdft`` and the console script."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_sdft.__main__ import main


def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """What is printed, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "lightning_sdft", *arguments], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["compare", "-h"], ["--completion", "bash"]])
def test_help_and_completion_import_neither_torch_nor_lightning(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["lightning-sdft", *{arguments!r}]
from lightning_sdft.__main__ import main
main()
print([name for name in ("torch", "lightning", "transformers", "jsonargparse") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "lightning-sdft" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["configs", "--about", "tool_use_sdft"], None, "experiment/tool_use_sdft "),
        (["fti"], 2, "error: there is no command fti; did you mean fit?"),
        (["fit", "--config", "laptop_sdtf"], 2, "error: laptop_sdtf does not exist"),
    ],
)
def test_what_needs_no_torch_is_done_without_it(arguments: list[str], code: int | None, said: str) -> None:
    lines = """
import sys
sys.argv = ["lightning-sdft", *%r]
from lightning_sdft.__main__ import main
code = None
try:
    main()
except SystemExit as end:
    code = end.code
print(code, [name for name in ("torch", "lightning", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", lines % arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{code} []"
    assert (done.stdout if code is None else done.stderr).startswith(said)


def test_a_line_comes_before_torch_is_imported(tmp_path: Path) -> None:
    """By which torch is broken, so that nothing comes after it."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is imported')")
    done = subprocess.run(
        [sys.executable, "-m", "lightning_sdft", "fit", "--config", "laptop_sdft"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.stdout == "fit laptop_sdft: loading torch, Lightning and transformers\n"
    assert "torch is imported" in done.stderr


UNUSED = (
    "bitsandbytes", "datasets", "IPython", "lm_eval", "openai", "optuna", "pandas", "peft", "pyarrow", "sklearn",
    "sphinx", "tensorflow", "torch._inductor.compile_fx", "transformers.image_processing_utils", "trl", "vllm",
)  # fmt: skip
"""Packages and modules that training needs nothing of, or only some runs."""


def test_training_imports_nothing_that_it_does_not_need_and_searches_no_modules_for_garbage(tmp_path: Path) -> None:
    sizes = {"train_size": 8, "validation_size": 2, "test_size": 2, "prior_size": 2, "batch_size": 4}
    small = ["--model.init_args.model", "zoo/laptop-small", *(f"--data.{name}={size}" for name, size in sizes.items())]
    arguments = ["fit", "--config", "laptop_sdft", *small, "--trainer.max_steps=1", "--trainer.num_sanity_val_steps=0"]
    code = f"""
import gc, sys
sys.argv = ["lightning-sdft", *{arguments!r}]
from lightning_sdft.__main__ import main
main()
print(sorted(name for name in {UNUSED!r} if name in sys.modules), gc.isenabled(), gc.get_freeze_count() > 100_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[] True True"
    assert (tmp_path / "runs/laptop_sdft/version_0/checkpoints/last.ckpt").exists()


def test_help_takes_a_small_part_of_what_all_of_it_takes() -> None:
    short, quick = run("export", "--help")
    whole, slow = run("export", "--help", "all")
    assert "--checkpoint" in short.stdout
    assert "--checkpoint CHECKPOINT" in whole.stdout
    assert quick < slow / 4


def test_an_unknown_shell_is_refused() -> None:
    done, _ = run("--completion", "tcsh")
    assert done.returncode != 0
    assert "knows bash, zsh" in done.stderr


def test_all_else_goes_to_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lightning-sdft", "configs", "--about", "tool_use_sdft"])
    main()
    assert "experiment/tool_use_sdft" in capsys.readouterr().out


def test_a_reader_who_has_read_enough_causes_no_error() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "lightning_sdft", "fit", "--help"]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")
