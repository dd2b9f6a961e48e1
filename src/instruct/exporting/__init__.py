"""Exports of a checkpoint for other programs, each checked on the test set in the program that will run it."""
