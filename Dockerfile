# docker build -t seqsvr .
# docker run --read-only -p 127.0.0.1:8000:8000 -v seqsvr:/data seqsvr
#
# Serves from the embedded store in /data. Name the volume, as above: without a name every `docker run` gets a new one,
# whose ids begin at 101 again. For MySQL, say where it is, or mount a configuration at /etc/seqsvr/config.yml:
#   docker run -p 127.0.0.1:8000:8000 -v seqsvr:/data -v ./password:/run/secrets/db:ro \
#     -e SEQSVR_MYSQL__HOST=db:3306 -e SEQSVR_MYSQL__USER=seqsvr -e SEQSVR_MYSQL__DATABASE=sequence \
#     -e SEQSVR_MYSQL__PASSWORD_FILE=/run/secrets/db seqsvr
# The other commands find the same configuration: docker exec CONTAINER seqsvr doctor
#
# `seqsvr --version` says which commit it is of if the build is told, for .git is not in it:
#   docker build --build-arg BUILD_COMMIT=$(git rev-parse --short HEAD) \
#     --build-arg BUILD_DATE=$(git log -1 --format=%cs) -t seqsvr .
#
# `make image` builds and tries this file where there is no Docker.

# slim has gcc and libc's headers, which the C parts need (SQLite, mimalloc, ring); of the same Debian as below, so that
# the binary finds the libc that it was linked with.
FROM rust:1-slim-bookworm AS build
WORKDIR /build
# The tests and benches are named in Cargo.toml, and cargo wants the files to be there.
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY benches benches
COPY tests tests
ARG BUILD_COMMIT
ARG BUILD_DATE
RUN cargo build --release --locked --bin seqsvr && mkdir -m 0750 /data

# Nothing is run in it to build it, nor later but the binary: a base without a shell does too, if it has glibc and libgcc.
FROM debian:bookworm-slim
LABEL org.opencontainers.image.title=seqsvr \
      org.opencontainers.image.description="Unique, rising 64-bit ids over HTTP, leased durably from MySQL or from an embedded store" \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /build/target/release/seqsvr /usr/local/bin/seqsvr
COPY config.yml /etc/seqsvr/config.yml
# A new volume takes over the owner.
COPY --from=build --chown=10001:10001 /data /data
ENV SEQSVR_DATA_DIR=/data
# A number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Whether it lives, not whether it is ready: what restarts unhealthy containers must not do so because a database is away. It gives
# up after 2 s by itself, and says why.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/seqsvr", "--config", "/etc/seqsvr/config.yml", "healthcheck"]
# Then `docker run seqsvr check` and the other commands work too. As process 1 it handles SIGTERM itself.
ENTRYPOINT ["/usr/local/bin/seqsvr", "--config", "/etc/seqsvr/config.yml"]
CMD ["serve"]
