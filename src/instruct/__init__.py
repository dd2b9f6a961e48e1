"""Turns a small pretrained language model into one that follows instructions, and measures whether it does."""
