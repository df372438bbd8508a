"""Changing the inside of a model, or its clips, for one forward pass, and measuring what that does."""
