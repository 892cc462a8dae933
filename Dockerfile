# The pinned image of `make reproduce`: CUDA runtime by digest, Python packages by hash, an ordinary user.
#
#   docker build -t openbezoar .
#   docker run --rm --gpus all --network host -v "$PWD:/work" -u "$(id -u):$(id -g)" -e HF_TOKEN -e OPENAI_API_KEY -e ANTHROPIC_API_KEY \
#       -e TEACHER_BASE_URL -e TEACHER_API_KEY -e BEZOAR_ACKNOWLEDGE_LICENCES openbezoar make ENV=/opt/openbezoar reproduce
#
# The teacher's server runs outside: the image holds neither vLLM nor llama.cpp.
# The project itself is mounted, not copied: results belong to the host, and an edit needs no new image.
ARG BASE=docker.io/nvidia/cuda:13.0.3-cudnn-runtime-ubuntu24.04@sha256:14f6d08d1cd4a96effbfe3101d0b56326f552c199d05e4979ee0bd616df5811b
FROM ${BASE}

# gcc and the headers: Triton compiles small launchers at run time.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates gcc git libc6-dev make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# cuda or cpu. The CPU build exists for tests of this file.
ARG TORCH=cuda
WORKDIR /opt/build
COPY envs envs
COPY scripts/commands/make_environment.sh scripts/commands/pip_settings.sh scripts/commands/
RUN scripts/commands/make_environment.sh /opt/openbezoar "${TORCH}" \
    && rm -rf /root/.cache /opt/build/*

ENV PATH=/opt/openbezoar/bin:$PATH \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 bezoar
USER bezoar
WORKDIR /work
CMD ["make", "ENV=/opt/openbezoar", "help"]
