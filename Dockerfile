# docker build -t seqsvr .
# docker run -p 8000:8000 -v seqsvr:/data seqsvr
#
# Serves from the embedded store in /data. Name the volume, as above: without a name every `docker run` gets a new one,
# whose ids begin at 101 again. For MySQL, mount a configuration that has a `mysql:` section instead of
# `store: embedded`, and its password as a file:
#   docker run -p 8000:8000 -v ./config.yml:/etc/seqsvr/config.yml:ro \
#     -v ./password:/run/secrets/db:ro -e SEQSVR_MYSQL__PASSWORD_FILE=/run/secrets/db seqsvr

# slim has gcc and libc's headers, which the C parts need (SQLite, mimalloc, ring); of the same Debian as below, so that
# the binary finds the libc that it was linked with.
FROM rust:1-slim-bookworm AS build
WORKDIR /build
# The tests and benches are named in Cargo.toml, and cargo wants the files to be there.
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY benches benches
COPY tests tests
RUN cargo build --release --locked --bin seqsvr

FROM debian:bookworm-slim
# A number, so that Kubernetes' runAsNonRoot can tell that it is not root. A new volume takes over the owner of /data.
RUN groupadd --gid 10001 seqsvr \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin seqsvr \
    && install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=build /build/target/release/seqsvr /usr/local/bin/seqsvr
COPY config.yml /etc/seqsvr/config.yml
ENV SEQSVR_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# healthcheck itself gives up after 2 s, and says why.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/seqsvr", "--config", "/etc/seqsvr/config.yml", "healthcheck"]
# Then `docker run seqsvr check` and the other commands work too. As process 1 it handles SIGTERM itself.
ENTRYPOINT ["/usr/local/bin/seqsvr", "--config", "/etc/seqsvr/config.yml"]
CMD ["serve"]
