# Two images from one file:
#
#     docker build --target cpu -t wsiprep:cpu .
#     docker build --target gpu -t wsiprep:gpu .
#     docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" wsiprep:cpu run slides -o out
#     docker run --rm --gpus all -v "$PWD:/data" wsiprep:gpu run slides -o out
#
# torch from the default package index runs on a CPU and, on Linux, brings CUDA libraries of
# several GB. For a small CPU image, or for another CUDA version, name the index that the
# installation page of pytorch.org gives for it:
#
#     docker build --target cpu --build-arg TORCH_INDEX=<that index> -t wsiprep:cpu .

FROM python:3.12-slim AS build
ARG TORCH_INDEX=""
RUN python -m venv /opt/wsiprep
ENV PATH=/opt/wsiprep/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# First, so that a change of the code does not fetch torch again.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.4" "torchvision>=0.19"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY wsiprep ./wsiprep
RUN pip install .

FROM python:3.12-slim AS runtime
COPY --from=build /opt/wsiprep /opt/wsiprep
RUN useradd --uid 1000 --create-home wsiprep && install -d -o wsiprep -m 1777 /data /models
# Fetched weights go to /models: mount a volume there to keep them.
ENV PATH=/opt/wsiprep/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/models
USER wsiprep
WORKDIR /data
# A batch tool has no health to be polled, so its check runs here: the build fails (exit 3) when a
# library, a plug-in or the embedded encoder does not load.
RUN wsiprep doctor
ENTRYPOINT ["wsiprep"]
CMD ["--help"]

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
