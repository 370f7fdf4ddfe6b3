"""Several processes: sums over them, weights cut between them, and checkpoints of which each writes its part."""
