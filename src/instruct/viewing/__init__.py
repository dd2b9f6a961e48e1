"""`instruct view`: every experiment on one page, to sort, to overlay and to search."""
