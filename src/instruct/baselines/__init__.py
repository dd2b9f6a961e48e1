"""The baselines for the SFT model: the base model with fair prompts, and answers without a model."""
