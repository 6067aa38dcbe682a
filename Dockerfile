# The service, in a virtual environment that is built in the first stage and copied into the last.
#   make image                      the service alone
#   make image EXTRAS="lm flags"    with optional groups, each a lock in requirements/
# Every Python package comes from a lock with hashes, as a wheel. What is compiled is the service's own hot path (docs/adr/0007).
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie
# What the service runs on may have less than what it is built on (no pip): the same Python at the same path is enough.
ARG RUNTIME_IMAGE=${PYTHON_IMAGE}

FROM ${PYTHON_IMAGE} AS build
# The compiler stays in this stage, in the one version that Debian keeps.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
COPY requirements/ requirements/
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r requirements/build.txt
# Nothing but what the locks name: they are complete.
RUN python3 -m venv --without-pip /opt/poolshift \
    && /opt/build/bin/pip --python /opt/poolshift/bin/python install --no-deps --require-hashes \
        -r requirements/base.txt -r requirements/image.txt
COPY . .
RUN POOLSHIFT_COMPILE=1 /opt/build/bin/pip --python /opt/build/bin/python wheel --no-deps --no-build-isolation \
        --wheel-dir /tmp/wheel . ./packaging/poolshift \
    && /opt/build/bin/pip --python /opt/poolshift/bin/python install --no-deps /tmp/wheel/*.whl \
    && install -m 0755 deploy/healthcheck.py /opt/poolshift/bin/healthcheck \
    && install -m 0755 deploy/install_requirements.py /opt/poolshift/bin/install-requirements
# Python's own pip, on no path: install-requirements alone runs it, in an image that is built on this one.
RUN install -d /opt/poolshift/share/installer \
    && cp -r /opt/build/lib/python3.*/site-packages/pip /opt/build/lib/python3.*/site-packages/pip-*.dist-info \
        /opt/poolshift/share/installer \
    && find /opt/poolshift/share/installer -name __pycache__ -prune -exec rm -r {} +
ARG EXTRAS=
RUN for lock in ${EXTRAS}; do \
        /opt/build/bin/pip --python /opt/poolshift/bin/python install --no-deps --require-hashes -r "requirements/${lock}.txt" \
            || exit 1; \
    done \
    && install -D -m 0644 LICENSE /opt/poolshift/share/licenses/LICENSE \
    && python3 deploy/notices.py /opt/poolshift > /opt/poolshift/share/licenses/THIRD-PARTY-NOTICES

# hadolint ignore=DL3006  the default is tagged; whoever gives another image tags that
FROM ${RUNTIME_IMAGE}
ARG EXTRAS=
# What the local model's server is linked against, in the one version that Debian keeps.
# hadolint ignore=DL3008
RUN case " ${EXTRAS} " in *" local-model "*) \
        apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* ;; \
    esac
RUN groupadd --gid 10001 poolshift \
    && useradd --uid 10001 --gid poolshift --no-create-home --home-dir /var/lib/poolshift \
        --shell /usr/sbin/nologin poolshift \
    && install -d -o poolshift -g poolshift /var/lib/poolshift \
    && install -d /programs \
    && install -d -o poolshift -g poolshift -m 0555 /packages
COPY --from=build /opt/poolshift /opt/poolshift
ENV PATH=/opt/poolshift/bin:$PATH \
    HOME=/var/lib/poolshift \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/packages \
    HOST=0.0.0.0 \
    PORT=8000 \
    LOG_FORMAT=json \
    DATABASE_URL=sqlite+aiosqlite:////var/lib/poolshift/poolshift.db
# The workers import from here, and from /packages what install-requirements puts there. Name your modules in PROGRAM_MODULES.
WORKDIR /programs
# All that the service writes; the rest of the file system may be read-only.
VOLUME /var/lib/poolshift
USER 10001:10001
EXPOSE 8000
# Passes SIGTERM to the service alone, which ends its workers itself, and reaps what programs leave behind.
ENTRYPOINT ["dumb-init", "--single-child", "--"]
CMD ["poolshift", "serve"]
# Healthy is: can serve. A container whose pools have had no live worker for half a minute is one to replace.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["healthcheck"]
# `make image` adds version, revision and time.
LABEL org.opencontainers.image.title="Poolshift" \
    org.opencontainers.image.description="Programs on pools of Python workers, moved from one engine to the next, step by step." \
    org.opencontainers.image.licenses="Apache-2.0"
