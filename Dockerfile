# Builds with the classic builder and with BuildKit: docker build .

FROM rust:1.95-bookworm AS builder
WORKDIR /src
# Dependencies first, in a separate layer: every source file that the manifest names is replaced by an empty program.
# The results of these are removed. They are newer than the sources, so cargo would not build the real program.
COPY Cargo.toml Cargo.lock ./
RUN grep -oE '"(src|tests)/[^"]+\.rs"' Cargo.toml | tr -d '"' | while read -r file; do \
      mkdir -p "$(dirname "$file")" && echo 'fn main() {}' > "$file" || exit 1; \
    done \
 && cargo build --release --locked --bin wardcast \
 && cargo clean --release --package wardcast
COPY src src
COPY config config
# The image has no git, so pass the commit: docker build --build-arg WARDCAST_COMMIT=$(git rev-parse --short HEAD) .
ARG WARDCAST_COMMIT=
RUN cargo build --release --locked --bin wardcast

FROM debian:bookworm-slim
# A numeric user, so that orchestrators can see that it is not root. A new named volume for the secrets gets the owner and
# the mode of this directory.
RUN groupadd --gid 10001 wardcast \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin wardcast \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/wardcast
# Certificate authorities, for keys of identity providers, hooks and Redis.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=builder /src/target/release/wardcast /usr/local/bin/
USER 10001:10001
EXPOSE 8000 8001
# The hub writes no files: it runs with --read-only --cap-drop ALL.
ENTRYPOINT ["wardcast"]
CMD ["serve"]
