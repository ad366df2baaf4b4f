"""How fast and how good: scenes with known truth, a scorer, timing of the command and of the kernels."""
