"""Two runs side by side, from what Git tracks alone: is the difference real, and what would it take to see it."""
