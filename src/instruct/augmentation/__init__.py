"""Optional stage: more records for training, made from other records or by a model, with their origin."""
