"""Weights from and to disk, the Hub, image models, and the bundled files."""
