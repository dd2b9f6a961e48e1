"""Stage 2: encoded examples, batches, loss and the training loop."""
