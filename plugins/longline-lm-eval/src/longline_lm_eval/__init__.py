"""Evaluates models that Longline trains with EleutherAI's harness, in the same process."""

__version__ = "0.1.0"
