# A worker for CPUs: docker build -f deploy/worker.Dockerfile -t captionmill-worker .
# For Intel GPUs add --build-arg GPU=1, which installs Debian's OpenCL driver; newer GPUs need a newer one.
FROM python:3.11-slim-bookworm

ARG GPU=""
RUN if [ -n "$GPU" ]; then \
        apt-get update && apt-get install -y --no-install-recommends intel-opencl-icd \
        && rm -rf /var/lib/apt/lists/*; \
    fi

RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin captionmill \
    && install -d /images && install -d -o captionmill -g captionmill /run/captionmill /var/cache/captionmill

# Not the whole repository at once: so dependencies stay in the image's cache when only sources change.
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY captionmill captionmill
COPY contract contract
COPY worker worker
COPY producer producer
COPY model_prep model_prep
COPY demo demo
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[remote]'

# From here on only mounted folders are written to: the root may be read-only.
WORKDIR /
USER 10001:10001
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    CAPTIONMILL_MODEL_FOLDER=/model \
    CAPTIONMILL_IMAGE_ROOTS=/images \
    CAPTIONMILL_CACHE_DIR=/var/cache/captionmill \
    CAPTIONMILL_HEALTH_FILE=/run/captionmill/health.json \
    CAPTIONMILL_HTTP_HOST=0.0.0.0 \
    CAPTIONMILL_HTTP_PORT=9809
EXPOSE 9809
# A model may take minutes to compile for the first time.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-m", "worker.monitoring.health", "/run/captionmill/health.json"]
# exec form: SIGTERM reaches Celery, which drains.
CMD ["celery", "-A", "worker", "worker", "-P", "threads", "-c", "8", "-Q", "captionmill.jobs", "-l", "INFO", "--without-mingle", "--without-gossip", "--without-heartbeat"]
