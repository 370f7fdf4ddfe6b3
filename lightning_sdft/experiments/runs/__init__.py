"""One run of an experiment: what it is, the process that performs it, and how several run side by side."""
