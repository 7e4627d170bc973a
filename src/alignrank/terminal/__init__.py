"""What is said to a person while work is done: lines, progress, what was left out. All of it on stderr."""
