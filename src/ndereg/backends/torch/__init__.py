"""PyTorch, eager, on the CPU or CUDA: step programs written out as lines of tensor code."""

from ndereg.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
