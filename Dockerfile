# Builds with the classic builder and with BuildKit alike: nothing here needs more than `docker build .`.

FROM rust:1.95-bookworm AS builder
WORKDIR /src
# Dependencies first, in a layer of their own: every source file that the manifest names gets an empty stand-in.
# What these compile to is cleaned away, or cargo would take the stand-ins, newer than the sources, for the program.
COPY Cargo.toml Cargo.lock ./
RUN grep -oE '"(src|tests)/[^"]+\.rs"' Cargo.toml | tr -d '"' | while read -r file; do \
      mkdir -p "$(dirname "$file")" && echo 'fn main() {}' > "$file" || exit 1; \
    done \
 && cargo build --release --locked --bin wardcast \
 && cargo clean --release --package wardcast
COPY src src
COPY config config
# There is no git here: docker build --build-arg WARDCAST_COMMIT=$(git rev-parse --short HEAD) .
ARG WARDCAST_COMMIT=
RUN cargo build --release --locked --bin wardcast

FROM debian:bookworm-slim
# A number, so that orchestrators can see that it is not root. The directory is the home of the secrets volume:
# a new named volume takes its owner from here.
RUN groupadd --gid 10001 wardcast \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin wardcast \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/wardcast
# Certificate authorities, for a JWKS behind https and Redis behind TLS.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=builder /src/target/release/wardcast /usr/local/bin/
USER 10001:10001
EXPOSE 8000
# Writes nothing: runs with --read-only --cap-drop ALL.
ENTRYPOINT ["wardcast"]
CMD ["serve"]
