from __future__ import annotations

from html.parser import HTMLParser

from lightning_sdft.inspection.html import page, rendered
from tests.inspection.conftest import rollout_look, token_look

HOSTILE = "<script>alert(1)</script> \" ' & </span> \x1b[31m \u202e"


class Reader(HTMLParser):
    """Collects tags, attributes and text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.styles: list[str] = []
        self.titles: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        values = dict(attrs)
        assert set(values) <= {"style", "title", "lang", "charset"}
        self.styles.append(values.get("style") or "")
        self.titles.append(values.get("title") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_of_models_and_data_stays_text() -> None:
    read = Reader(page([rollout_look(HOSTILE)], 1.0))
    assert read.open == []
    assert "script" not in read.tags
    assert read.text.count("<script>alert(1)</script>") == 7  # id, two prompts, two answers, and the token twice
    assert "\\x1b[31m" in read.text
    assert "\x1b" not in read.text + "".join(read.titles)
    assert "\u202e" not in read.text + "".join(read.titles)


def test_tokens_are_shaded_by_their_divergence_and_say_what_both_models_say() -> None:
    tokens = [token_look("calm", 0.01), token_look("wild", 3.0), token_look("early", 0.0, trained=False)]
    read = Reader(rendered([rollout_look(tokens=tokens)], 0.5))
    shown = {title.split(",")[0]: style for title, style in zip(read.titles, read.styles, strict=True) if title}
    assert "background" not in shown["KL 0.010"]
    assert "background:rgba(238,102,119,0.80)" in shown["KL 3.000"]
    assert "underline" in shown["KL 0.000"]
    title = next(each for each in read.titles if each.startswith("KL 3"))
    assert (
        "entropy of student 0.25, of teacher 0.75\nstudent: 'ours' 0.50  'rare' 0.00\nteacher: 'theirs' 0.50" in title
    )
    assert "at the temperature of the loss, 0.5" in read.text
    assert "KL 1.505 nats a token" in read.text
    assert "student, sampled (cut)" in read.text
