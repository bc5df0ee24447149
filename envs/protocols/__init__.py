"""The words between environment and model, a dialect a file: how calls are written, read, and answered."""
