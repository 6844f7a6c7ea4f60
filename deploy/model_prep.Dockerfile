# Checkpoint to model folder, once for each model; the only image with torch:
# docker build -f deploy/model_prep.Dockerfile -t captionmill-model-prep .
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
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[prep]'

WORKDIR /models
USER 10001:10001
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/tmp/huggingface
ENTRYPOINT ["python", "-m", "model_prep"]
CMD ["--help"]
