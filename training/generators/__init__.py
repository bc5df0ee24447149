"""Replies made in other processes: Ray actors with a copy of the weights each."""
