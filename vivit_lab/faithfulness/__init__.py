"""How far a map can be believed: what happens to the model when what the map points at is taken away."""
