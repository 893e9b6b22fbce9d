"""Answers that the model samples while it is trained: made, judged, kept, and handed to the loop step by step."""
