"""The parts of tools/install.py. Standard library only: nothing is installed yet when they run."""
