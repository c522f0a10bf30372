"""The last stage: the final model, whole or absent, and loaded again to see that it is the one in memory."""
