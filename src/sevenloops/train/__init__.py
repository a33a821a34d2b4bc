"""Training networks for real: data, recipes, checkpoints, curves. Needs PyTorch."""
