"""Worker processes of a sweep and the process that monitors them."""
