"""What others may see of a worker: its log, counts, health and supervision; decides nothing about a job."""
