"""Models: find, load, attach adapters, save."""
