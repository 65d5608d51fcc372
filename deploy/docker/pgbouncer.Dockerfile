# PgBouncer as Debian packages it; configuration and start script are mounted.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
# The version is Debian's: security updates come with a rebuild.
# hadolint ignore=DL3008
RUN groupadd --gid 6432 pgbouncer && useradd --uid 6432 --gid 6432 --no-create-home pgbouncer \
 && apt-get update \
 && apt-get install -y --no-install-recommends pgbouncer \
 && rm -rf /var/lib/apt/lists/*
USER 6432:6432
STOPSIGNAL SIGINT
CMD ["sh", "/etc/mainstay/start-pgbouncer.sh"]
