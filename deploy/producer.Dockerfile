# captionmill: runs, top, exporter: docker build -f deploy/producer.Dockerfile -t captionmill-producer .
FROM python:3.11-slim-bookworm

RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin captionmill

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY captionmill captionmill
COPY contract contract
COPY worker worker
COPY producer producer
COPY model_prep model_prep
COPY demo demo
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[datasets,parquet,remote]'

WORKDIR /runs
USER 10001:10001
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/tmp/huggingface
ENTRYPOINT ["captionmill"]
CMD ["--help"]
