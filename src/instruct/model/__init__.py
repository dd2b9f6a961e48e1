"""The model families, their weights and their checkpoints."""
