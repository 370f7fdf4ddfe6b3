"""Each domain from its real files to a report, with a tiny stand-in that knows no word of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chat.server import says, serving
from tests.conftest import make_model, make_tokenizer
from tests.real.domains import DOMAINS, run

REPORTED = {
    "science": {"science", "science_format"},
    "tool_use": {"tool_use", "tool_use_corrected"},
    "medical": {"medical"},
    "knowledge": {"knowledge", "knowledge_lenient", "ood", "ood_lenient"},
}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stand-in")
    make_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def judge_url() -> Iterator[str]:
    with serving(lambda prompt, count: says("INCORRECT")) as server:
        yield server.url


@pytest.mark.real
@pytest.mark.parametrize("method", ["sft", "sdft"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_domain_from_real_files_to_a_report(
    domain: str,
    method: str,
    stand_in: str,
    judge_url: str,
    real_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    judge = [f"--data.judge.init_args.chat.init_args.base_url={judge_url}"]
    metrics = run(domain, method, stand_in, judge, real_data, tmp_path / "out")
    for name in REPORTED[domain]:
        assert metrics[f"test/accuracy_low/{name}"] <= metrics[f"test/accuracy/{name}"] <= 1
        assert f"test/accuracy_ungraded/{name}" not in metrics
    assert 0 <= metrics["test/accuracy"] <= 1
