"""Training networks for real: data, recipes, checkpoints, curves. Needs PyTorch."""

from ..torch import _openmp as _openmp  # before anything imports PyTorch
