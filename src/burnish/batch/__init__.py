"""From rendered conversations to batches: truncation, the order of samples, packing and collation."""
