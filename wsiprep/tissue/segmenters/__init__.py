"""Built-in segmenters; the file name is the segmenter's name."""
