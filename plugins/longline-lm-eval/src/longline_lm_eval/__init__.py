"""Evaluates models that Longline trains with EleutherAI's harness, in the same process."""
