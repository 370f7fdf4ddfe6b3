"""Make questions about articles with a chat model, by the prompt of [1] after [2].

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
    [2] Mecklenburg et al., *Injecting New Knowledge into Large Language Models via Supervised Fine-Tuning*, 2024,
        https://arxiv.org/abs/2404.00213
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.chat.journal import Journal
from lightning_sdft.chat.local import LocalChat
from lightning_sdft.commands.files import output_files, write_rows
from lightning_sdft.commands.question_pairs import Distinct, Pair, parse_pairs
from lightning_sdft.data.articles import read_articles
from lightning_sdft.data.tables import take
from lightning_sdft.errors import DataError
from lightning_sdft.grading.contains import plain_words
from lightning_sdft.progress import Work, count_text
from lightning_sdft.records import Message
from lightning_sdft.settings import Count, Fraction, PositiveShare, Seed, check_ranges
from lightning_sdft.storage.lock import writing

__all__ = ["questions"]

PROMPT = """\
You are a helpful assistant that helps me write questions for an
exam. You will be given a wiki article and you will need to write
{number} question on the content of the wiki article. The question should
require recalling multiple pieces of information from the wiki
article. Do not repeat the same question
The questions should be in the following format:
Question: <question>
Answer: <answer>"""
"""The prompt of [1], word for word, with line breaks as printed there, where the number is 100."""


def questions(
    articles: str,
    output: str,
    chat: ChatModel,
    per_article: Count = 100,
    rounds: Count = 1,
    held_out: Fraction = 0.1,
    split_seed: Seed = 0,
    similarity: PositiveShare = 0.9,
) -> None:
    """Ask a chat model for questions about articles, with answers, and leave out those that repeat another one.

    The prompt is the system turn, the article the user turn. Each reply is saved in ``pairs.journal.jsonl`` at once: if
    the command was stopped, run it again, and it asks only for what is missing. At the end the rows ``article``,
    ``question``, ``answer`` are written for ``KnowledgeDataModule``, the held-out ones to ``pairs.test.jsonl``. A
    held-out question stays held out when later runs make more questions.

    Replies are read strictly. A question is left out if it has no answer, or an answer of several paragraphs. So is the
    last question of a reply that may be cut off, which means that the reply has fewer questions than asked for and does
    not end like a sentence. A question repeats another one if it has the same words. Within an article, it also does if
    the words that both have are at least the share ``similarity`` of all their words. The first one is kept.

    Args:
        articles: Folder or rows of articles, as for ``KnowledgeDataModule``.
        output: File of the rows, such as ``pairs.jsonl``; the other files are named after it.
        chat: The chat model to ask, such as ``Endpoint`` with ``--chat.model`` and ``--chat.base_url``. A reply of 100
            questions has some 8,000 tokens and takes minutes; ``--chat.timeout=900`` leaves enough time.
        per_article: Questions that each request asks for; 100 as in [1].
        rounds: How often questions about each article are asked for; more than 1 needs a temperature above 0.
        held_out: Share of the questions to hold out; each question is drawn by itself.
        split_seed: Seed of the choice of held-out questions.
        similarity: Share of common words from which two questions count as the same; 1 removes only questions with the
            same words.

    Raises:
        DataError: If a setting or an article cannot be used, if an output file exists that this command did not write,
            or if there are no questions in the end.
        ChatError: If the chat model cannot be used at all, or would always give the same reply.
    """
    check_ranges(questions, locals())
    files = output_files(output, ["test"])
    texts = read_articles(articles, "--articles")
    asked = {
        (name, turn): _key(chat, per_article, text, turn) for turn in range(rounds) for name, text in texts.items()
    }
    with writing(files["train"]):
        replies = _replies(chat, Journal(files["journal"]), texts, asked, per_article)
        pairs = Distinct(similarity)
        lost, without_pairs = 0, 0
        for (name, _), key in asked.items():
            if key in replies:
                parsed = parse_pairs(replies[key], per_article)
                lost += parsed.lost
                without_pairs += not parsed.pairs
                pairs.add(name, parsed.pairs)
        train = [(name, pair) for name, pair in pairs.kept if not _is_held_out(pair, held_out, split_seed)]
        test = [(name, pair) for name, pair in pairs.kept if _is_held_out(pair, held_out, split_seed)]
        for kind, part in (("train", train), ("test", test)):
            rows = [{"article": name, "question": pair.question, "answer": pair.answer} for name, pair in part]
            write_rows(files[kind], rows)
        about = f"{len({name for name, _ in pairs.kept})} of {count_text(len(texts), 'article')}"
        print(f"{count_text(len(pairs.kept), 'question')} about {about}")
        print(f"  to train on: {len(train)} in {files['train']}, held out: {len(test)} in {files['test']}")
        print(f"  left out: {pairs.same} the same as another one, {pairs.similar} similar to one, {lost} not read")
        if without_pairs:
            print(f"  replies without any question: {without_pairs}, see {files['journal']}")
        if len(replies) < len(asked):
            print(f"  replies that did not come: {len(asked) - len(replies)}; run the command again")
        if not train:
            raise DataError("there are no questions to train on; see above, and perhaps ask a stronger model")


def _replies(
    chat: ChatModel,
    journal: Journal,
    texts: Mapping[str, str],
    asked: Mapping[tuple[str, int], str],
    per_article: int,
) -> dict[str, str]:
    """Replies by key: those in the journal, and new ones for those missing there."""
    replies: dict[str, str] = {}
    for number, record in enumerate(journal.records(), start=1):
        where = f"{journal.path}, row {number}"
        replies[take(record, "key", str, where)] = take(record, "reply", str, where)
    rounds = max(turn for _, turn in asked) + 1
    if rounds > 1:
        chat.check_varied(f"the {rounds} replies about an article", "rounds")
    first_seed = chat.seed if isinstance(chat, LocalChat) else 0
    for turn in range(rounds):
        missing = [name for name in texts if asked[name, turn] not in replies]
        work = Work(f"questions, round {turn + 1} of {rounds}", len(missing), "replies")

        def keep(index: int, reply: str, missing: list[str] = missing, turn: int = turn, work: Work = work) -> None:
            name = missing[index]
            key = asked[name, turn]
            journal.append({"key": key, "article": name, "round": turn + 1, "model": chat.name, "reply": reply})
            replies[key] = reply
            work.advance()

        if isinstance(chat, LocalChat):
            chat.seed = first_seed + turn  # otherwise a new process would repeat the replies of the first round
        with work:
            chat.reply([_conversation(texts[name], per_article) for name in missing], keep)
    return {key: replies[key] for key in asked.values() if key in replies}


def _conversation(article: str, per_article: int) -> list[Message]:
    return [
        {"role": "system", "content": PROMPT.replace("{number}", str(per_article))},
        {"role": "user", "content": article},
    ]


def _key(chat: ChatModel, per_article: int, article: str, turn: int) -> str:
    """A hash that identifies a request: of everything that the reply depends on."""
    content = json.dumps([chat.name, _conversation(article, per_article), turn])
    return hashlib.sha256(content.encode()).hexdigest()


def _is_held_out(pair: Pair, share: float, seed: int) -> bool:
    digest = hashlib.sha256(f"{seed} {' '.join(plain_words(pair.question))}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64
