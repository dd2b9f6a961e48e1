"""Optional stage: more records for training, each made from another one or by a model, each saying how."""
