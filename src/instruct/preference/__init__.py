"""Preference tuning: from pairs of answers to a model that gives the better one more often."""
