"""The one report: sections, tables, charts and style of a run, of two runs compared and of all runs."""
