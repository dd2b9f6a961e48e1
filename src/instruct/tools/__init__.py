"""What the command `instruct` does around the pipeline; no stage imports it."""
