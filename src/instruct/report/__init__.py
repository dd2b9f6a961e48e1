"""Metrics to figures and the report."""
