"""The two model families, their weights and their checkpoints."""
