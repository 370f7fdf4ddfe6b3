"""The paper's experiments: loops over ordinary runs of ``fit``, each a folder that says what it was and what came out."""
