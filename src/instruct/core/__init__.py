"""Code that all stages and tools share; it imports none of them."""
