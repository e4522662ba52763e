# CMEMS for CPUs: docker build -t cmems --build-arg TORCH_INDEX=URL . && docker run --rm -v "$PWD:/data" --user "$(id -u)" cmems train DATA
FROM python:3.11-slim
# A C++ compiler for the kernels that make training on CPUs faster; what OpenCV loads.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# URL: PyTorch's index of CPU builds, as its install page names it; without it pip takes the build for GPUs, gigabytes larger.
ARG TORCH_INDEX
RUN pip install --no-cache-dir -c constraints.txt torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
    && pip install --no-cache-dir -c constraints.txt "setuptools>=70.1,<81" \
    && pip install --no-cache-dir --no-build-isolation -c constraints.txt .
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["cmems"]
CMD ["--help"]
