"""Which pretrained weights there are, and how they get here; nothing of torch."""
