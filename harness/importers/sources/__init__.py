"""Files, folders and pipes that logs are read from, and the text in their bytes."""
