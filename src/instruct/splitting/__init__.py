"""Stage 1: raw records to train, val and test."""
