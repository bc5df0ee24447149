"""Several processes that learn together, as torchrun starts them."""
