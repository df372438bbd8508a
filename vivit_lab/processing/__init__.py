"""Frames to pixel values: the exact and the fast path, and the preprocessor files in use."""
