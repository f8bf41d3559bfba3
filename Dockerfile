# The image of the manager: one static binary, nothing else.
#
#   docker build .                    compile in a builder image
#   docker build --target prebuilt .  take bin/capv-static-ip, see `make image`;
#                                     with the default BASE this pulls no image

# The image to compile in: anything with the Go of go.mod.
ARG BUILDER=golang:1.26
# What the binary is put on. It needs nothing of it: `scratch` will do, as will
# a base that your organization requires.
ARG BASE=scratch

FROM ${BASE} AS base
# A number, so that runAsNonRoot can be verified without a passwd file.
USER 65532:65532
ENTRYPOINT ["/capv-static-ip"]

FROM base AS prebuilt
COPY bin/capv-static-ip /capv-static-ip

FROM ${BUILDER} AS compiled
WORKDIR /src
# Modules first: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" \
    -o /capv-static-ip ./cmd/capv-static-ip

FROM base
COPY --from=compiled /capv-static-ip /capv-static-ip
