"""One engine each, run as a process of its own that answers tasks on a pipe, in the environment it needs."""
