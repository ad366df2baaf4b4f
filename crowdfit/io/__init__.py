"""Reading images and lists, writing catalogues, fit images and run records."""
