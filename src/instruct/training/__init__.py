"""Encoded examples, batches, loss and the training loop."""
