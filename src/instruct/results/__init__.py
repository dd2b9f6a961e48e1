"""What a run leaves: one schema, written by `evaluate`, and one reader for all who show or compare runs."""
