"""Stage 4: responses to scores."""
