"""Prompts and tokenizers: everything between a record and token ids."""
