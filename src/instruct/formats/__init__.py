"""User data in the common formats, read as a stream: JSON list, JSON Lines, CSV, Parquet."""
