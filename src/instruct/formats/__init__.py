"""User data in any of the usual shapes, read as a stream: JSON list, JSON Lines, CSV, Parquet."""
