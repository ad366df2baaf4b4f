"""One fit over many exposures: one list of stars, one linear system, every exposure with its own PSF and sky."""
