"""The report of a fit: one self-contained HTML page, and the small picture for a README."""
