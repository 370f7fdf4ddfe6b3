from __future__ import annotations

import time

import pytest

from lightning_sdft.commands.question_pairs import Distinct, Pair, parse_pairs

PAIRS = [Pair("Who came?", "Ann and Bo."), Pair("When?", "On 4 May, at 5.")]

SPELLINGS = {
    "as asked for": "Question: Who came?\nAnswer: Ann and Bo.\nQuestion: When?\nAnswer: On 4 May, at 5.",
    "blank lines": "\n\nQuestion: Who came?\n\nAnswer: Ann and Bo.\n\n\nQuestion: When?\nAnswer: On 4 May, at 5.\n\n",
    "numbered": "1. Question: Who came?\nAnswer: Ann and Bo.\n2) Question: When?\n   Answer: On 4 May, at 5.",
    "numbers apart": "1.\nQuestion: Who came?\nAnswer: Ann and Bo.\n\n**2.**\nQuestion: When?\nAnswer: On 4 May, at 5.",
    "numbered words": "Question 1: Who came?\nAnswer 1: Ann and Bo.\nQuestion #2: When?\nAnswer 2: On 4 May, at 5.",
    "bold words": "**Question:** Who came?\n**Answer:** Ann and Bo.\n**Question**: When?\n**Answer**: On 4 May, at 5.",
    "bold lines": "**Question: Who came?**\nAnswer: Ann and Bo.\n**2. Question: When?**\n**Answer: On 4 May, at 5.**",
    "bold texts": "Question: **Who came?**\nAnswer: **Ann and Bo.**\nQuestion: When?\nAnswer: On 4 May, at 5.",
    "headings": "### Question 1: Who came?\nAnswer: Ann and Bo.\n### Question 2: When?\nAnswer: On 4 May, at 5.",
    "sections": (
        "# Exam\n\nQuestion: Who came?\nAnswer: Ann and Bo.\n\n---\n\n## Time\n\n**Part 2:**\nQuestion: When?\n"
        "Answer: On 4 May, at 5."
    ),
    "lists": "- Question: Who came?\n  - Answer: Ann and Bo.\n* Question: When?\n  * Answer: On 4 May, at 5.",
    "case and breaks": "QUESTION:\nWho came?\nanswer:\nAnn and Bo.\nquestion: When?  \nANSWER: On 4 May, at 5.  ",
    "introduction": (
        "Here are 2 questions:\n\nQuestion: Who came?\nAnswer: Ann and Bo.\nQuestion: When?\nAnswer: On 4 May, at 5."
    ),
    "brackets": "Question: <Who came?>\nAnswer: <Ann and Bo.>\nQuestion: When?\nAnswer: On 4 May, at 5.",
    "windows": "Question: Who came?\r\nAnswer: Ann and Bo.\r\nQuestion: When?\r\nAnswer: On 4 May, at 5.\r\n",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_reads_whatever_spelling(name: str) -> None:
    parsed = parse_pairs(SPELLINGS[name], 2)
    assert parsed.pairs == PAIRS
    assert parsed.lost == 0


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("42", "42"),
        ("\n42.", "42."),
        ("\n**42**", "42"),
        ("Three:\n- one\n- two", "Three:\n- one\n- two"),
        ("It is a ** b", "It is a ** b"),
        ("**Bold** and **bold**", "**Bold** and **bold**"),
        ("Question marks: {}", "Question marks: {}"),
    ],
)
def test_answers_stay_as_they_are(answer: str, read: str) -> None:
    reply = f"Question: Why so?\nAnswer: {answer}\n\nQuestion: When?\nAnswer: Now"
    assert parse_pairs(reply, 2).pairs[0] == Pair("Why so?", read)


@pytest.mark.parametrize(
    ("reply", "kept", "lost"),
    [
        ("", 0, 0),
        ("I cannot do that.", 0, 0),
        ("Question: Who?", 0, 1),
        ("Answer: Ann.", 0, 1),
        ("Question: Who?\nQuestion: When?\nAnswer: Now.", 1, 1),
        ("Question: Who?\nAnswer: Ann.\nAnswer: Bo.", 1, 1),
        ("Question: Who?\nAnswer:\nQuestion: When?\nAnswer: Now.", 1, 1),
        ("Question:\nAnswer: Ann.\nQuestion: When?\nAnswer: Now.", 1, 1),
        ("Question: <question>\nAnswer: <answer>\nQuestion: When?\nAnswer: Now.", 1, 1),
        ("Question: <question>\nAnswer: Ann.\nQuestion: When?\nAnswer: <answer>", 0, 2),
        ("Question: Who?\nAnswer: Ann.\n\nShe was great.\nQuestion: When?\nAnswer: Now.", 1, 1),
        ("Question: Who?\nAnswer: Ann.\n\nI hope that these questions help!", 0, 1),
    ],
)
def test_doubtful_pairs_are_left_out_and_counted(reply: str, kept: int, lost: int) -> None:
    parsed = parse_pairs(reply, 5)
    assert (len(parsed.pairs), parsed.lost) == (kept, lost)


WHOLE = "Question: Who came?\nAnswer: Ann and Bo came.\nQuestion: When was that?\nAnswer: On 4 May, at noon"


def test_no_cut_reply_gives_half_an_answer() -> None:
    for end in range(len(WHOLE)):
        parsed = parse_pairs(WHOLE[:end], 3)
        assert parsed.pairs in ([], [Pair("Who came?", "Ann and Bo came.")]), WHOLE[:end]


def test_a_last_answer_is_kept_if_it_is_whole() -> None:
    assert len(parse_pairs(WHOLE, 2).pairs) == 2  # as many as asked for
    assert len(parse_pairs(WHOLE, 3).pairs) == 1
    assert len(parse_pairs(f"{WHOLE}.", 3).pairs) == 2


def test_long_replies_of_anything_are_read_in_linear_time() -> None:
    for unit in ("*", " ", "\n", "#", "1.", "question", "Question: ", "\n\n#", "**a", "- *_"):
        seconds = []
        for size in (8_000, 128_000):
            began = time.perf_counter()
            parse_pairs("Question: a\nAnswer: b\n" + unit * (size // len(unit)) + "x", 5)
            seconds.append(time.perf_counter() - began)
        assert seconds[1] < 60 * seconds[0] + 0.5, unit


def jaccard(one: str, other: str) -> float:
    """Independent of the code: both texts have plain words only."""
    words, others = set(one.lower().split()), set(other.lower().split())
    return len(words & others) / len(words | others)


def test_repeated_questions_are_left_out() -> None:
    distinct = Distinct(similarity=0.75)
    distinct.add("a", [Pair("Who led a rescue in May?", "x"), Pair("who led a RESCUE, in the May", "y")])
    assert (len(distinct.kept), distinct.same, distinct.similar) == (1, 1, 0)
    distinct.add("b", [Pair("Who led a rescue in May?", "z")])
    assert (len(distinct.kept), distinct.same, distinct.similar) == (1, 2, 0)
    first = "Who led a rescue in May"
    for number, (question, repeats) in enumerate(
        [
            ("Who led a rescue in early May", True),
            ("Who led a rescue of June", False),
            ("In May who led a rescue", True),
        ]
    ):
        assert (jaccard(first, question) >= 0.75) == repeats
        kept, similar = len(distinct.kept), distinct.similar
        distinct.add("a", [Pair(question, str(number))])
        assert (len(distinct.kept) - kept, distinct.similar - similar) == ((0, 1) if repeats else (1, 0))
    distinct.add("b", [Pair("Who led a rescue in early May", "q")])  # of another article
    assert distinct.kept[-1] == ("b", Pair("Who led a rescue in early May", "q"))


def test_at_similarity_1_only_the_order_of_words_may_differ() -> None:
    distinct = Distinct(similarity=1)
    distinct.add("a", [Pair(f"Who led rescue number {number} of the many in May?", "x") for number in range(20)])
    assert len(distinct.kept) == 20
