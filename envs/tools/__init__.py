"""What a model can do with the images it was shown: look closer, turn, or nothing. Yours are written the same way."""
