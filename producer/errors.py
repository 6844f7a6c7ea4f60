"""The root of the producer's public exceptions; knows none of the places that raise them."""


class ProducerError(Exception):
    """An error that a person can act on: the message says what is wrong and what to do.

    The tree, grouped by what has to change:

        ProducerError
        ├── the command, or the files that it reads
        │   ├── SourceError          producer.sources: a source or a question cannot be used as given
        │   │   ├── NoImagesError    a folder, pattern or archive has no image
        │   │   └── LineError        a text file cannot be read from a line on
        │   └── LiveModelError       producer.model_choice: no live worker has the model
        ├── the run's folder and the disk
        │   ├── LedgerError          producer.ledger: the run folder cannot be used as asked
        │   │   └── LedgerDamagedError   producer.database: captionmill repair makes a new ledger
        │   ├── SinkError            producer.sinks.sink: an output cannot be written as asked
        │   └── NotWrittenError      producer.outputs: every answer is there, an output is not on disk
        ├── the server
        │   ├── ServerError          producer.connection: no server answers
        │   └── BrokerAwayError      producer.queue: the broker takes no job
        └── the workers
            ├── NoWorkerError        producer.ask: no worker is alive
            ├── FirstJobsFailError   producer.first_jobs: the first jobs all fail for one reason
            └── WorkersCrashError    producer.collect: jobs kill every worker

    SourceError, SinkError and LiveModelError are ValueErrors too. Any other exception is a bug.
    """
