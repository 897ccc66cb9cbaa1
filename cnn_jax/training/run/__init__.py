"""A run: what it is made of, the compiled programs, and the loop around them."""
