"""Clients of servers of language models, and what they share: retries, a cache of replies, many requests at once."""
