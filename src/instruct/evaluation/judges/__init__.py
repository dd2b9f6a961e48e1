"""Judges: each is asked for a verdict on one response and returns it raw."""
