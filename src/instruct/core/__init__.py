"""The common floor: what all stages and tools share, and what knows none of them."""
