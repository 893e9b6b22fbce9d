"""Is the tuned model better than its base? Scores on held-out questions, with intervals."""
