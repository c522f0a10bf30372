"""Methods of training: one torch-free object each, found by its entry point; and reward functions, which score drawn answers."""

from longline.config.method import GROUP, brought_by, find, names, usable

__all__ = ["GROUP", "brought_by", "find", "names", "usable"]
