"""The steps of one pass: frozen, validated dataclasses whose fields are their configuration."""
