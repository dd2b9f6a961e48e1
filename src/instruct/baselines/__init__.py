"""What the SFT model must beat: the base model asked in fair ways, and answers that need no model."""
