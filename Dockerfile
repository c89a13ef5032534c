# What the docker and kubernetes deployments of prefect.yaml run: everything `make batch` needs, models included, for CPUs.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/gristmill
COPY . .
ENV PATH="/opt/gristmill/.venv/bin:$PATH" PYTHONSAFEPATH=1
RUN make setup && pip install --no-cache-dir 'obstore>=0.9' && rm -rf /root/.cache .gristmill/wheels
CMD ["gristmill", "--help"]
