"""A language model as the judge of answers: prompts, replies, costs, figures."""
