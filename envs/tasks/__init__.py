"""Where tasks come from: drawn scenes, data files of a user's own, mixtures."""
