"""The paper's experiments: loops over ordinary runs of ``fit``, a folder each."""
