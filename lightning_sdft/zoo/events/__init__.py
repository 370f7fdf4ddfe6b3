"""Ten short articles about invented events, with questions: knowledge that no model has, for small experiments.

``articles/*.txt`` holds the articles, ``questions.jsonl`` twenty questions about each of them, and ``indirect.jsonl``
three about each that do not name the event. ``corpus.py`` generates all of them from ``source/``.
"""
