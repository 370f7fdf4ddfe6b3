"""Training in several processes: reductions over them, sharded weights, and sharded checkpoints."""
