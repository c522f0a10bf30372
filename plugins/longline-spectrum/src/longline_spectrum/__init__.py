"""A Longline plugin that trains the matrices of a model that hold the most signal, and the command that measures them."""
