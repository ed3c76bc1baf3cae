"""Contract suites for plug-in authors: `slide`, `segmenter`, `encoder`. They need pytest."""
