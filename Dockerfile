# docker build -t vsn-train . && docker run --gpus all --shm-size 8g -v /data:/data -v "$PWD/runs:/vsn/runs" vsn-train
FROM python:3.11-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY vsn_train vsn_train
RUN pip install --no-cache-dir .
WORKDIR /vsn
ENTRYPOINT ["vsn-train"]
