"""From hidden states to a loss: the output head and the cross entropy."""
