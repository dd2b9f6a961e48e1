"""Raw records to train, val and test."""
