"""Triton kernels for guidance. They are imported where they run, since Triton is not everywhere."""
