"""One run of an experiment: its settings, the process that performs it, and how several run in parallel."""
