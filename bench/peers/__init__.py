"""One engine per module, run as a child process that answers tasks on a pipe, in its own environment."""
