"""A Longline plugin that computes the loss at the output head without the logits of all tokens, or refuses with the reason."""
