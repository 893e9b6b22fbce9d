"""Fast paths, each beside the plain reference that defines it."""
