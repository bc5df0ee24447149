"""Other forms of the same environment: actions with structure in place of text, arrays in place of words."""
