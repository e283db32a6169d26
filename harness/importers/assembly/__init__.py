"""From the rows of any format to the histories of the runs in it."""
