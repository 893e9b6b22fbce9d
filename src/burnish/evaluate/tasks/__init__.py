"""Tasks that come with Burnish, as lm-eval's YAML files."""
