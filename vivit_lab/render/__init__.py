"""Pictures and movies of attribution maps over the frames of their own clip."""
