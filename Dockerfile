# The demo on a CPU, without anything else of the machine:
#   docker build -t detdistill .
#   docker run --rm -v "$PWD/runs:/detdistill/runs" detdistill
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /detdistill
COPY . .
RUN make .venv/.runtime
CMD ["make", "demo"]
