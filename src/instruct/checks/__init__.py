"""The checks for right answers as data, and the strict rules that apply them."""
