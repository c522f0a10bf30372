"""Methods of training: one torch-free object each, found by its entry point; and reward functions, which score drawn answers."""

from longline.config.method import GROUP, find, names

__all__ = ["GROUP", "find", "names"]
