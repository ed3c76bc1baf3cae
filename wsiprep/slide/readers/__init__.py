"""Built-in readers; the file name is the reader's name."""
