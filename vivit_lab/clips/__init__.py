"""Which clips a data set holds: one reader for training, evaluation, heads and bulk runs."""
