"""Who samples for a module, when, and what happens when they cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.errors import RolloutError, SettingError
from lightning_sdft.modules import DistillationModule, SDFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.records import Rollout, Sampling
from lightning_sdft.rollout import (
    ContinuousEngine,
    InProcessEngine,
    RolloutEngine,
    VLLMEngine,
    VLLMServer,
    generate,
)
from lightning_sdft.teacher import EMATeacher
from tests.rollout.vllm.stand_in import standing_in


@dataclass
class WatchedEngine(RolloutEngine):
    """Notes what it is asked for."""

    name: str = "watched"
    asked: list[dict[str, Any]] = field(default_factory=list, init=False)
    lock: Any = field(default_factory=threading.Lock, init=False)  # which no checkpoint could hold

    def start(self, policy: Policy, max_tokens: int) -> None:
        self.asked.append({"start": max_tokens, "dtype": policy.compute_dtype})

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        max_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        step: int,
    ) -> list[Rollout]:
        self.asked.append({"prompts": prompts, "max_tokens": max_tokens, "seeds": list(seeds), "step": step})
        return generate(policy, prompts, max_tokens, sampling, seeds)

    def stop(self) -> None:
        self.asked.append({"stop": True})


torch.serialization.add_safe_globals([WatchedEngine])


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_engine_is_started_asked_once_per_optimizer_step_and_stopped(
    precision: Any, dtype: torch.dtype, words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    engine = WatchedEngine()
    trainer = make_trainer(max_steps=3, accumulate_grad_batches=4, precision=precision)
    trainer.fit(words_module(SDFTModule, engine=engine), datamodule=words_data(batch_size=8, micro_batch_size=2))
    start, *steps, stop = engine.asked
    assert start == {"start": 16 + 8, "dtype": dtype}
    assert stop == {"stop": True}
    assert [step["step"] for step in steps] == [0, 1, 2]
    assert all(len(step["prompts"]) == 8 for step in steps)
    assert len({seed for step in steps for seed in step["seeds"]}) == 3 * 8  # one for each sequence
    assert all(step["max_tokens"] == 8 for step in steps)


def test_default_engine_is_the_student_itself(words_module: Callable[..., SDFTModule]) -> None:
    assert words_module(SDFTModule).engine == InProcessEngine()


def test_checkpoint_holds_the_settings_of_an_engine_alone(
    words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.fit(words_module(SDFTModule, engine=WatchedEngine("mine")), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    engine = SDFTModule.load_from_checkpoint(tmp_path / "last.ckpt").engine
    assert isinstance(engine, WatchedEngine)
    assert engine.name == "mine"


@pytest.mark.parametrize("engine", [VLLMServer("http://127.0.0.1:1", "/tmp"), VLLMEngine(0.5, "bfloat16", {"seed": 1})])
def test_checkpoint_may_name_the_engines_of_this_package(
    engine: RolloutEngine, words_module: Callable[..., SDFTModule], tmp_path: Path
) -> None:
    torch.save(engine, tmp_path / "engine.pt")
    assert torch.load(tmp_path / "engine.pt", weights_only=True) == engine


@pytest.mark.parametrize("source", ["teacher", "demonstration"])
def test_engine_is_refused_where_the_student_does_not_sample(
    source: Any, words_module: Callable[..., DistillationModule]
) -> None:
    with pytest.raises(ValueError, match=f"engine=VLLMServer samples from the student, but rollout_source={source}"):
        words_module(DistillationModule, engine=VLLMServer(), rollout_source=source)


def test_vllm_that_is_not_installed_says_how_to(
    words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any
) -> None:
    with pytest.raises(RolloutError, match=r"VLLMEngine needs vLLM; pip install 'lightning-sdft\[vllm\]'"):
        make_trainer().fit(words_module(SDFTModule, engine=VLLMEngine()), datamodule=words_data())


# Training with a server


class Curve(Callback):
    """The loss and the tokens of each optimizer step."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[float, list[list[int]]]] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        completions = [rollout.completion for rollout in batch.group.rollouts]
        if batch.is_last:
            self.steps[trainer.global_step] = (outputs["loss"].item(), completions)


def test_dead_server_ends_the_run_and_a_new_one_lets_it_go_on_exactly(
    words_module: Callable[..., SDFTModule],
    words_data: Any,
    make_trainer: Any,
    family_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    def fit(name: str, url: str, ckpt_path: Path | None = None) -> tuple[SDFTModule, Curve]:
        seed_everything(7 if ckpt_path is None else 8)
        curve = Curve()
        save = ModelCheckpoint(tmp_path / name, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks = [EMATeacher(teacher_rate=0.1), curve, save]
        trainer = make_trainer(callbacks=callbacks, accumulate_grad_batches=2, max_steps=5, enable_checkpointing=True)
        module = words_module(SDFTModule, engine=VLLMServer(url), skip_tokens=1)
        trainer.fit(module, datamodule=words_data(), ckpt_path=ckpt_path)
        return module, curve

    with standing_in(family_folder("llama")) as server:
        module, whole = fit("whole", server.url)
        assert [method for method, _ in server.calls].count("reload_weights") == 5
    with standing_in(family_folder("llama")) as server:
        server.dies_after = 3 * 4 + 2  # in the middle of the fourth step
        with pytest.raises(RolloutError, match=r"does not answer .*; start it, and go on from the last checkpoint by"):
            fit("dead", server.url)
    with standing_in(family_folder("llama")) as server:
        resumed, later = fit("resumed", server.url, tmp_path / "dead" / "step=3.ckpt")
    assert later.steps == {step: whole.steps[step] for step in (4, 5)}
    state = module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in resumed.state_dict().items())


def test_server_trains_as_the_student_itself_would(
    words_module: Callable[..., SDFTModule],
    words_data: Any,
    make_trainer: Any,
    family_folder: Callable[[str], Path],
) -> None:
    """The stand-in samples with the weights that it was sent, in the student's own numerics."""
    states = []
    with standing_in(family_folder("llama")) as server:
        for engine in (None, VLLMServer(server.url)):
            seed_everything(3)
            module = words_module(SDFTModule, engine=engine)
            make_trainer(max_steps=4).fit(module, datamodule=words_data())
            states.append(module.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=2e-4)


def test_continuous_batching_trains_with_importance_weights_and_resumes_exactly(
    words_module: Callable[..., SDFTModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    def fit(ckpt_path: Path | None = None) -> tuple[SDFTModule, Any]:
        seed_everything(7 if ckpt_path is None else 8)
        save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = make_trainer(max_steps=3, callbacks=[save], enable_checkpointing=True)
        module = words_module(SDFTModule, engine=ContinuousEngine())
        trainer.fit(module, datamodule=words_data(), ckpt_path=ckpt_path)
        return module, trainer.callback_metrics

    whole, metrics = fit()
    assert metrics["rollout/importance"] == pytest.approx(1, abs=1e-4)
    resumed, _ = fit(tmp_path / "step=2.ckpt")
    state = whole.state_dict()
    assert all(torch.equal(state[name], value) for name, value in resumed.state_dict().items())


def test_a_way_of_sampling_that_an_engine_does_not_know_is_refused_at_once(words_module: Callable[..., Any]) -> None:
    with pytest.raises(SettingError, match="min_p behind top_p"):
        words_module(SDFTModule, engine=ContinuousEngine(), sampling=Sampling(top_p=0.9, min_p=0.1))
    words_module(SDFTModule, sampling=Sampling(top_p=0.9, min_p=0.1))
