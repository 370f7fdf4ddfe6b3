"""Knowledge acquisition: learn the content of articles, then answer questions without seeing them, as in [1].

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from string import Formatter
from typing import Any, Literal

from lightning_sdft import zoo
from lightning_sdft.data.articles import passages, read_articles
from lightning_sdft.data.row_module import RowDataModule
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.data.tables import Row, take
from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.contains import AnswerContained, plain_words
from lightning_sdft.grading.judge import Judge, JudgedAnswer
from lightning_sdft.records import Example, Message
from lightning_sdft.settings import Count, check_ranges

__all__ = ["ORACLE_TEMPLATE", "KnowledgeDataModule"]

log = logging.getLogger(__name__)

ORACLE_TEMPLATE = "This is a text that the question is about:\n{article}\n\nAnswer the question.\nQuestion: {question}"
"""Default user turn of ``oracle`` prompts. The wording is ours, because [1] does not print its own."""

STRICT = ("CORRECT",)
LENIENT = ("CORRECT", "PARTIALLY_CORRECT")


class KnowledgeDataModule(RowDataModule):
    """Questions about articles: the student sees only the question; the teacher may see the article, answer, or both.

    Rows have the columns ``article`` (the id of an article, or a list of ids), ``question`` and ``answer``. An
    example's context is the text of its articles and its demonstration is the answer, so ``privileged_context`` of
    ``SDFTModule`` can be ``article``, ``demonstration`` or ``both``. ``lightning-sdft questions`` writes such rows.

    With a judge, answers are graded as in [1]: ``knowledge`` counts the answers that the judge calls correct, and
    ``knowledge_lenient`` also those that it calls partially correct; for indirect questions these metrics are called
    ``ood`` and ``ood_lenient``. Without a judge, ``knowledge_contained`` and ``ood_contained`` only check whether the
    response contains the answer (:class:`~lightning_sdft.grading.contains.AnswerContained`). They cannot be compared
    with the judged metrics.

    A question that occurs twice in a file, ignoring case and punctuation, is a bad row.

    Args:
        articles: Folder of ``.txt`` and ``.md`` files named after the articles' ids, or a table with the columns
            ``article`` and ``text``, or ``zoo/events/articles``: ten articles about invented events in this package.
        train: Questions to train on, such as ``zoo/events/questions.jsonl``; see
            :func:`~lightning_sdft.data.tables.read_rows`.
        validation: The same for questions evaluated during training.
        test: The same for questions evaluated by ``test`` and ``predict``.
        indirect: The same for questions that depend on the articles without naming their subject, evaluated by ``test``
            and ``predict``, such as ``zoo/events/indirect.jsonl``. ``test/accuracy`` is the mean over these and the
            other test questions' sets.
        train_on: What to train on: the ``questions``, or passages of the ``articles`` for continued pretraining with
            ``CPTModule``. The questions that are held out of ``train`` and evaluated are the same in both cases.
        passage_length: Maximum number of characters per passage; the passages cover the whole articles. A passage ends
            after a paragraph, line or sentence if one ends in its second half.
        prompt: What the model is asked in evaluation: only the question (``closed``), or the question with its articles
            (``oracle``), which shows what perfect retrieval would achieve.
        oracle_template: The user turn of ``oracle`` prompts, with the placeholders ``{article}`` and ``{question}``.
        judge: The judge that grades answers, with the prompt ``knowledge``, such as ``Judge`` or ``LocalJudge``.
        **kwargs: See :class:`RowDataModule`.

    Raises:
        DataError: If the template has other placeholders, or the judge has other labels.
    """

    def __init__(
        self,
        articles: str,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        indirect: str | None = None,
        train_on: Literal["questions", "articles"] = "questions",
        passage_length: Count = 3000,
        prompt: Literal["closed", "oracle"] = "closed",
        oracle_template: str = ORACLE_TEMPLATE,
        judge: Judge | None = None,
        **kwargs: Any,
    ) -> None:
        check_ranges(KnowledgeDataModule, locals())
        super().__init__(train=train, validation=validation, test=test, **kwargs)
        fields = {field for _, field, _, _ in Formatter().parse(oracle_template) if field is not None}
        if fields != {"article", "question"}:
            raise DataError(
                f"data.oracle_template={oracle_template!r} has the placeholders {sorted(fields)}, but needs "
                "{article} and {question}"
            )
        if judge is not None and not set(LENIENT) <= set(judge.prompt.labels):
            raise DataError(
                f"data.judge puts the labels {judge.prompt.labels} on answers, but {LENIENT} are needed; give its "
                "prompt as knowledge"
            )
        self.articles = articles
        self.indirect = indirect
        self.train_on = train_on
        self.passage_length = passage_length
        self.prompt = prompt
        self.oracle_template = oracle_template
        self.judge = judge
        self._articles: dict[str, str] = {}
        self._asked: dict[str, str] = {}

    def load(self) -> Splits:
        """Read the articles and the questions."""
        self._articles = read_articles(self.articles, f"{self.setting}.articles")
        splits = super().load()
        train = self._passages() if self.train_on == "articles" else splits.train
        test = list(splits.test)
        if self.indirect:
            test.append(self._graded(self.read(self.indirect, "indirect"), "ood"))
        if self.judge is None and (splits.validation or test):
            log.warning(
                "no judge: an answer counts as correct if it contains the reference answer word for word. This is not "
                "the paper's grading and cannot be compared with it; give %s.judge for that",
                self.setting,
            )
        return Splits(train, splits.validation, test)

    def read(self, source: str, split: str) -> list[Example]:
        """Read the examples of a source, and refuse repeated questions."""
        self._asked = {}
        return super().read(zoo.file(source), split)

    def example(self, row: Row, where: str, name: str, trained: bool) -> Example:
        """Make an example of a row."""
        question, answer = (take(row, column, str, where).strip() for column in ("question", "answer"))
        for column, text in (("question", question), ("answer", answer)):
            if not plain_words(text):
                raise DataError(f"{where}: column {column!r} has no words ({text!r}); write it, or leave the row out")
        context = self._context(take(row, "article", object, where), where)
        words = " ".join(plain_words(question))
        before = self._asked.setdefault(words, name)
        if before != name:
            raise DataError(f"{where}: asks the same as example {before!r}; leave one of them out")
        prompt: list[Message] = [{"role": "user", "content": question}]
        return Example(name, prompt, answer, context, {"question": question, "answer": answer})

    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Combine questions with their graders."""
        return self._graded(examples, "knowledge")

    def question(self, example: Example) -> str:
        """What an example asks, ignoring case and punctuation."""
        return " ".join(plain_words(example.reference["question"]))

    def _graded(self, examples: Sequence[Example], name: str) -> EvaluationSet:
        if self.prompt == "oracle":
            examples = list(map(self._with_articles, examples))
        graders: dict[str, Grader] = {f"{name}_contained": AnswerContained()}
        if self.judge is not None:
            graders = {name: JudgedAnswer(self.judge, STRICT), f"{name}_lenient": JudgedAnswer(self.judge, LENIENT)}
        return EvaluationSet(examples, graders)

    def _with_articles(self, example: Example) -> Example:
        question = example.prompt[-1]["content"]
        content = self.oracle_template.format(article=example.context, question=question)
        return replace(example, prompt=[{"role": "user", "content": content}])

    def _context(self, names: object, where: str) -> str:
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names:
            raise DataError(f"{where}: column 'article' must hold the id of an article, or a list of ids; correct it")
        for name in names:
            if name not in self._articles:
                raise DataError(
                    f"{where}: there is no article {name!r} in {self.articles}, which has {len(self._articles)} "
                    f"articles, such as {next(iter(self._articles))!r}; correct the row, or add the article"
                )
        return "\n\n".join(self._articles[name] for name in names)

    def _passages(self) -> list[Example]:
        """Passages as demonstrations. Raw text has no prompt, but an example needs one: the article's id."""
        return [
            Example(f"{article}-{number}", [{"role": "user", "content": article}], passage)
            for article, text in self._articles.items()
            for number, passage in enumerate(passages(text, self.passage_length), start=1)
        ]
