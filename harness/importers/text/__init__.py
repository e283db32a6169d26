"""Text logs of any program: lines, blocks and progress bars."""
