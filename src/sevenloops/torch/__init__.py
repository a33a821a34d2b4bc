"""sevenloops under PyTorch: operators with gradients, modules, and what replaces those of a model. Needs PyTorch."""
