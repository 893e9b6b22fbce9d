"""Training: one loop for all stages, exact resume, atomic checkpoints."""
