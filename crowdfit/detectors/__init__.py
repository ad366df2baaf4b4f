"""What detectors add to an image besides the sky."""
