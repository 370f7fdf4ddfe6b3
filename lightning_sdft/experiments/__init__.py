"""The paper's experiments: loops over ordinary runs of ``fit``, each run in a folder of its own."""
