"""Helpers of the command `instruct`; no stage imports them."""
