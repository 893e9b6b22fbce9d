"""Data sets that Burnish writes itself: seeded, in our own words, pure Python."""
