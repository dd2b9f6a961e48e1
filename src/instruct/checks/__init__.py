"""What makes an answer right, as data, and the strict rule that tells right answers from wrong ones."""
