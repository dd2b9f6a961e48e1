"""Exports of a checkpoint for other programs, each proved on the test set by the program that will run it."""
