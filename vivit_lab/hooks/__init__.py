"""Reading a model from inside."""
