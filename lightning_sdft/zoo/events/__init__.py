"""Ten short articles about invented events, with questions: knowledge that no model has, for small experiments.

``articles/*.txt`` are the articles, ``questions.jsonl`` has twenty questions on each of them, and ``indirect.jsonl``
three on each that do not name the event. ``corpus.py`` makes all of them from ``source/``.
"""
