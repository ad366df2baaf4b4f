"""Compiled inner loops: plain arrays in and out, numpy and numba only, nothing of ours imported."""
