"""Measurements made once the fit has settled."""
