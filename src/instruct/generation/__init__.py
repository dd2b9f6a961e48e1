"""Stage 3: prompts to responses."""
