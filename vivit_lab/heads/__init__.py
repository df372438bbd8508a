"""Heads: masks, importance, statistics, pruning and experiments."""
