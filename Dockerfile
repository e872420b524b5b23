# GPU (default):  docker build -t qconf-server .
# CPU:            docker build -t qconf-server:cpu --build-arg BASE=python:3.11-slim .
# Needs BuildKit, which is the default since Docker 23.
ARG BASE=vllm/vllm-openai:v0.32.0

# The official image brings vLLM, torch and most of what the server needs; a plain Python base gets the CPU lock. This
# stage changes only with the locks: a change in our own code rebuilds in seconds.
FROM ${BASE} AS packages
# The base may have another; the last stage leaves root again.
# hadolint ignore=DL3002
USER 0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/qconf
# Another place to find wheels: a page or a folder of the base, for machines that do not reach PyTorch's index.
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore
RUN --mount=type=bind,source=requirements,target=/requirements \
    if python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)'; then \
      # What the base has stays as it is, whatever the lock says.
      python3 -m pip list --format=freeze > before.txt \
      && python3 /requirements/missing.py /requirements/server.txt > missing.txt \
      && python3 -m pip install --no-deps --require-hashes -r missing.txt \
      && python3 -m pip list --format=freeze > after.txt \
      && if grep -vxFf after.txt before.txt; then echo "the packages above were changed" >&2; exit 1; fi \
      && rm before.txt missing.txt after.txt; \
    else \
      sh /requirements/system.sh \
      && (python3 -m pip install --no-deps torch==2.13.0+cpu \
          || python3 -m pip install --no-deps torch==2.13.0+cpu --index-url https://download.pytorch.org/whl/cpu) \
      && python3 -m pip install --no-deps --require-hashes -r /requirements/image.txt; \
    fi

# What the image is made of, with licences. The tools that list it stay behind.
FROM packages AS bill
RUN --mount=type=bind,source=requirements,target=/requirements \
    python3 -m venv --without-pip /tools \
    && python3 -m pip --python /tools/bin/python install --no-deps --require-hashes -r /requirements/bill.txt \
    && mkdir /bill \
    && /tools/bin/cyclonedx-py environment --output-reproducible --output-file /bill/sbom.cdx.json "$(command -v python3)" \
    && /tools/bin/pip-licenses --python="$(command -v python3)" --with-system --order=license --format=markdown \
         --output-file=/bill/licenses.md \
    && dpkg-query --show > /bill/debian.tsv

FROM packages
COPY --from=bill /bill bill
# Without an index pip can only take what is there, and fails if that does not suffice.
RUN --mount=type=bind,target=/source,rw \
    python3 -m pip install --no-index --no-build-isolation '/source[server]' \
    && python3 -m server --help > /dev/null \
    && useradd --no-log-init --no-create-home --home-dir /cache --uid 10001 qconf \
    && install --directory --owner=qconf --group=qconf /cache /state

USER 10001:10001
WORKDIR /cache
# vLLM, Triton, CUDA and the hub keep caches in the home folder; this one can be written, and is still there tomorrow.
ENV HOME=/cache QCONF_HOST=0.0.0.0 QCONF_PORT=8000
VOLUME ["/cache", "/state"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"QCONF_PORT\"]}/ready', timeout=4)"]
ENTRYPOINT ["python3", "-m", "server"]

ARG BASE
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="qconf" \
      org.opencontainers.image.description="Compare a full-precision language model with its GPTQ 4-bit twin" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}"
