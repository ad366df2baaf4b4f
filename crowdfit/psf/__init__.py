"""Point spread functions: one lowered array form (`epsf`), and the ways to build it."""
