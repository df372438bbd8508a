"""How results look: HTML and figures, registered for the type of the result."""
