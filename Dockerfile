# The image for CPU nodes; Dockerfile.cuda is the one for GPU nodes. It has no shell script, no package beyond Debian's
# smallest, no CUDA libraries and no weights: an init container fetches those (k8s/base). Where it finds no GPU it can
# use, the server classifies on the processor, so this image runs on GPU nodes too, and leaves their GPUs alone.
#
# The health check is the server's own `convoy ready`, which asks /readyz; Kubernetes passes over it and has its own probes
# (k8s/base).
#
#   docker buildx build -t convoy .
#
# Both bases are named by version; a release names them by digest: --build-arg RUNTIME=debian:bookworm-slim@sha256:...

ARG RUST=rust:1.95-bookworm
ARG RUNTIME=debian:bookworm-slim

FROM ${RUST} AS build
RUN apt-get update && apt-get install -y --no-install-recommends nasm python3 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/convoy /usr/local/bin/convoy \
    && python3 tests/supply/bill.py /licences --licences-only && cp LICENSE /licences
RUN convoy faq train --questions weights/faq/questions.tsv --duplicates weights/faq/duplicates.tsv \
    --answers weights/faq/answers.tsv --out /faq.safetensors

FROM ${RUNTIME}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="convoy" \
    org.opencontainers.image.description="Photos to classes and questions to FAQ entries, over HTTP and gRPC" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=build /usr/local/bin/convoy /usr/local/bin/convoy
COPY --from=build /licences /usr/share/doc/convoy
COPY --from=build /faq.safetensors /opt/convoy/faq.safetensors
ENV CONVOY_FAQ_MODEL=/opt/convoy/faq.safetensors
# By number, so that Kubernetes can see that it is not root.
USER 1000:1000
EXPOSE 8080 8001 9090
# Ports open when models are loaded: until then it is starting, not ill.
HEALTHCHECK --interval=10s --timeout=5s --start-period=1m CMD ["convoy", "ready"]
ENTRYPOINT ["convoy"]
CMD ["serve"]
