"""Trains a real model with rollouts from a real vLLM, in the same process and from a server, and kills the server.

``make test-vllm`` builds an environment with vLLM for CPUs and runs ``python -m tests.real.vllm``. Figures are of the
sampler's log-probabilities against those of the model itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_sdft import EMATeacher, JsonDataModule, SDFTModule, VLLMEngine, VLLMServer
from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.records import GREEDY, Rollout, Sampling
from lightning_sdft.rollout import generate
from lightning_sdft.rollout.vllm.base import VLLMRollouts
from lightning_sdft.rollout.vllm.server import COMMAND
from tests.real.log_probabilities import compared
from tests.real.smollm2 import DATA, ROOT, model_folder

PORT = 8377
MAX_TOKENS = 448
BUDGETS = {"max_prompt_tokens": 384, "max_teacher_prompt_tokens": 1024, "max_completion_tokens": 64}
TRUNCATED = [Sampling(), Sampling(top_p=0.8), Sampling(top_k=20), Sampling(0.7, min_p=0.05)]
ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


def show(title: str, figures: dict[str, float]) -> None:
    print(f"{title:42}", " ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


class Watch(Callback):
    """Compares the rollouts of each optimizer step with the weights they were to come from, before these change."""

    def __init__(self, engine: VLLMRollouts, name: str) -> None:
        self.engine, self.name = engine, name
        self.fingerprints: list[str] = []
        self.batch: Any = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batch = batch

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.fingerprints.append(self.engine._fingerprint)
        figures = compared(pl_module.policy, self.batch.group.rollouts, Sampling())
        logged = {"seconds": pl_module.clock.seconds["rollout"]}
        show(f"{self.name} step {trainer.global_step} {self.fingerprints[-1][:8]}", {**figures, **logged})
        assert figures["max_gap"] < 1e-3
        assert abs(figures["ratio"] - 1) < 1e-3

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if "rollout/importance" in trainer.callback_metrics:
            assert abs(trainer.callback_metrics["rollout/importance"].item() - 1) < 1e-3


def train(model: Path, data: Path, engine: VLLMRollouts, name: str) -> None:
    """Three steps of SDFT."""
    seed_everything(1, verbose=False)
    watch = Watch(engine, name)
    module = SDFTModule(str(model), engine=engine, learning_rate=1e-5, warmup_steps=0, over_budget="drop", **BUDGETS)
    columns = {"prompt_column": "Question", "demonstration_column": "Response"}
    rows = JsonDataModule(train=str(data), batch_size=4, micro_batch_size=2, **columns)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    callbacks = [EMATeacher(teacher_rate=0.01), watch]
    trainer = Trainer(accelerator="cpu", max_steps=3, accumulate_grad_batches=2, callbacks=callbacks, **quiet)
    trainer.fit(module, datamodule=rows)
    assert trainer.global_step == len(set(watch.fingerprints)) == 3  # every step had weights of its own


def check(model: Path, engine: VLLMRollouts, name: str) -> None:
    """What sampling means, what happens to old prefixes, and whether missing weights are noticed."""
    policy = Policy.load(str(model)).eval()
    questions = ["What helps against a cold?", "Name three rivers.", "Why is the sky blue?", "What is a prime number?"]
    prompts = [policy.tokenizer.encode([{"role": "user", "content": question}]) for question in questions]
    engine.start(policy, MAX_TOKENS)

    def sample(sampling: Sampling, step: int, times: int = 1, first: int = 0) -> list[Rollout]:
        seeds = [2**61 + first + index for index in range(len(prompts) * times)]
        return engine.generate(policy, prompts * times, 64, sampling, seeds, step)

    for sampling in TRUNCATED:
        rollouts = sample(sampling, 0, times=4)
        figures = compared(policy, rollouts, sampling)
        show(f"{name} {sampling}".replace("Sampling", ""), figures)
        assert abs(figures["ratio"] - 1) < 0.01
        assert figures["max_gap"] < 1e-2
        ends = policy.tokenizer.stop_ids
        assert all(len(each.completion) == 64 or each.finished for each in rollouts)
        assert not any(set(each.completion[:-1]) & ends for each in rollouts)
    again, other = sample(Sampling(), 0), sample(Sampling(), 0, first=100)
    assert again == sample(Sampling(), 0)
    assert [each.completion for each in again] != [each.completion for each in other]
    greedy = zip(sample(GREEDY, 0), generate(policy, prompts, 64, GREEDY), strict=True)
    equal = [one.completion == two.completion for one, two in greedy]
    print(f"{name} greedy answers equal to those in process: {sum(equal)} of {len(equal)}")

    salted = engine.send_weights
    long = [prompts[0] + prompts[1] * 9, prompts[2] * 9]  # of several blocks, which are what vLLM keeps
    for step, salt in ((10, True), (20, False)):
        if not salt:
            engine.send_weights = lambda policy: salted(policy) and "salt"  # type: ignore[method-assign]
        engine.generate(policy, long, 32, Sampling(), [1, 2], step)
        perturb(policy)
        figures = compared(policy, engine.generate(policy, long, 32, Sampling(), [1, 2], step + 1), Sampling())
        show(f"{name} prefixes of older weights, {'salted' if salt else 'not salted'}", figures)
        assert (figures["max_gap"] < 1e-3) == salt
    del engine.send_weights

    withhold(engine)
    perturb(policy)
    try:
        sample(Sampling(), 30)
    except RolloutError as error:
        print(f"{name} weights withheld: {error}")
    else:
        raise AssertionError("a sync that does nothing was not noticed")
    engine.stop()


@torch.no_grad()
def perturb(policy: Policy) -> None:
    for parameter in policy.parameters():
        parameter.add_(0.02 * parameter.abs().mean() * torch.randn_like(parameter))


def withhold(engine: Any) -> None:
    """Let a sync do nothing."""
    holder, name = (engine, "_call") if isinstance(engine, VLLMServer) else (engine._llm, "collective_rpc")
    call = getattr(holder, name)
    setattr(holder, name, lambda method, **options: [] if method == "reload_weights" else call(method, **options))


@contextmanager
def serving(model: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A vLLM server as the error message says that it is started."""
    variable, _, _, _, *options = COMMAND.format(max_tokens=MAX_TOKENS).split()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), *options]
    command += ["--host", "127.0.0.1", "--port", str(PORT), "--dtype", "float32", "--enforce-eager"]
    command += ["--kv-cache-memory-bytes", str(2**29), "--max-num-seqs", "32"]
    environment = {**os.environ, **ENVIRONMENT, **dict([variable.split("=")])}
    with (output / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        engine, started = VLLMServer(f"http://127.0.0.1:{PORT}"), time.monotonic()
        policy = Policy.load(str(model))
        while True:
            try:
                engine.start(policy, MAX_TOKENS)
                break
            except RolloutError:
                if server.poll() is not None or time.monotonic() - started > 600:
                    sys.exit(f"the server did not start; see {output / 'server.log'}")
                time.sleep(2)
        print(f"server ready after {time.monotonic() - started:.0f} s", flush=True)
        yield server
    finally:
        server.kill()
        server.wait()


def kill(model: Path, data: Path, server: subprocess.Popen[bytes], output: Path) -> None:
    """Kill the server of a run that has written a checkpoint, and see how the run ends."""
    parts = ["experiment/smollm2_sdft", "rollout/vllm_server"]
    command = [sys.executable, "-m", "lightning_sdft", "fit"]
    command += [f"--config={ROOT / 'configs' / part}.yaml" for part in parts]
    command += [f"--model.init_args.{name}={value}" for name, value in {**BUDGETS, "model": model}.items()]
    command += [f"--model.init_args.engine.init_args.url=http://127.0.0.1:{PORT}", "--trainer.max_steps=1000"]
    command += [f"--data.init_args.train={data}", "--data.init_args.batch_size=2"]
    command += ["--data.init_args.micro_batch_size=1", "--trainer.logger=false", "--trainer.callbacks=ModelCheckpoint"]
    command += ["--trainer.callbacks.save_last=true", "--trainer.callbacks.every_n_train_steps=1"]
    command += [f"--trainer.callbacks.dirpath={output / 'checkpoints'}", f"--trainer.default_root_dir={output}"]
    checkpoint = output / "checkpoints" / "last.ckpt"
    checkpoint.unlink(missing_ok=True)  # of an earlier run
    with (output / "killed.log").open("wb") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log)
    while run.poll() is None and not checkpoint.exists():
        time.sleep(0.2)
    server.kill()
    killed = time.monotonic()
    run.wait(timeout=90)
    print(
        f"killed the server: the run ended with status {run.returncode} after {time.monotonic() - killed:.1f} s, saying"
    )
    print((output / "killed.log").read_text().strip().splitlines()[-1])
    module = SDFTModule.load_from_checkpoint(checkpoint)
    assert isinstance(module.engine, VLLMServer)
    print(f"its last checkpoint is whole: {checkpoint.stat().st_size / 2**20:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["colocated", "server"], help="by default each, in its own process")
    parser.add_argument("--model", help="folder, hub id or .gguf file")
    parser.add_argument("--data", type=Path, default=DATA, help="file with the columns Question and Response")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "vllm")
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        sys.exit(f"no demonstrations at {arguments.data}; give --data, or set LIGHTNING_SDFT_DATA to the real files")
    os.environ.update(ENVIRONMENT)
    model = model_folder(arguments.output, arguments.model)
    if arguments.part == "colocated":
        options = {"enforce_eager": True, "kv_cache_memory_bytes": 2**29, "max_num_seqs": 32}
        train(model, arguments.data, VLLMEngine(options=options), "colocated")
        check(model, VLLMEngine(options=options), "colocated")
    elif arguments.part == "server":
        with serving(model, arguments.output) as server:
            engine = VLLMServer(f"http://127.0.0.1:{PORT}")
            train(model, arguments.data, engine, "server")
            check(model, VLLMServer(engine.url), "server")
            kill(model, arguments.data, server, arguments.output)
    else:
        given = [f"--{name}={value}" for name, value in vars(arguments).items() if value is not None]
        for part in ("colocated", "server"):
            subprocess.run([sys.executable, "-m", "tests.real.vllm", part, *given], check=True)


if __name__ == "__main__":
    main()
