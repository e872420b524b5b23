# GPU (default):  docker build -t qconf-server .
# CPU:            docker build -t qconf-server:cpu --build-arg BASE=python:3.11-slim .
ARG BASE=vllm/vllm-openai:v0.32.0
FROM ${BASE}

USER root
WORKDIR /opt/qconf
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1

# The official image brings vLLM, torch and all that the server needs; a plain Python base gets the CPU lock.
# This layer changes only with the lock: a change in our own code rebuilds in seconds.
COPY requirements/cpu.txt requirements/system.sh requirements/
RUN if python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)'; then \
      echo "vLLM is there already"; \
    else \
      sh requirements/system.sh \
      && (python3 -m pip install torch==2.13.0+cpu \
          || python3 -m pip install torch==2.13.0+cpu --index-url https://download.pytorch.org/whl/cpu) \
      && python3 -m pip install --no-deps --require-hashes -r requirements/cpu.txt; \
    fi

# What is installed stays as it is: nothing here may replace the base's torch or vLLM.
COPY pyproject.toml README.md ./
COPY server server
COPY client client
COPY eval eval
COPY demo demo
RUN python3 -m pip list --format=freeze > installed.txt \
    && python3 -m pip install --constraint installed.txt '.[server]' \
    && rm -rf build ./*.egg-info installed.txt server client eval demo \
    && python3 -c 'import server.app, server.settings' \
    && useradd --create-home --uid 10001 qconf \
    && install --directory --owner=qconf /cache /state

USER qconf
WORKDIR /home/qconf
ENV QCONF_HOST=0.0.0.0 QCONF_PORT=8000 HF_HOME=/cache/huggingface VLLM_CACHE_ROOT=/cache/vllm
VOLUME /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"QCONF_PORT\"]}/ready', timeout=4)"]
ENTRYPOINT ["python3", "-m", "server"]
