"""`visualzoom mismatch`: the same tokens read in several ways."""
