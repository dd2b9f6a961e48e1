"""Splits raw records into train, val and test."""
