"""Widgets for notebooks: explore a clip, its heads and its maps in the browser."""
