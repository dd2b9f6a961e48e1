"""The quality of a data set: findings in its records, the gates they must pass, and lengths in tokens."""
