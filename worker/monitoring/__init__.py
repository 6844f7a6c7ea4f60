"""What others may see of a worker: log, metrics, health and supervision; decides nothing about a job."""
