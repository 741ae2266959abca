"""The algebra: paths, prediction kinds, denoisers, conditions, noise, and the closed forms that verify them."""
