"""Training: a plain loop on Hugging Face Accelerate, its regularisation, and the recipe of the bundled classifier."""
