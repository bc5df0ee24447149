"""Any Gymnasium environment as one that a language model plays."""
