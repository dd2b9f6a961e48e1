"""Preference pairs: read from a file or made from train, checked, and divided."""
