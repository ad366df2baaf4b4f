"""Pages of the documentation, and the code that they are made with."""
