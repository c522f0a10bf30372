"""Methods of training, and the reward functions of those whose policy answers."""
