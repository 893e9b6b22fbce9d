"""From what was trained to files that other programs load, each checked after writing."""
