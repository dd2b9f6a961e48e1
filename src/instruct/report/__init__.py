"""Stage 5: metrics to figures and the report."""
