"""Kernels in CUDA C++ (`csrc/cuda`), compiled for the card that is there by torch's own run-time compiler (NVRTC)."""
