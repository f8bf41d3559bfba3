#!/bin/sh
# Pushes the image, and what the operator of Cluster API pulls, to a registry of yours,
# and writes configurations for it:
#
#   ./load.sh registry.corp.example/capi
#
# Credentials come from your docker configuration (~/.docker/config.json). Needs no
# container runtime. On another system than Linux, push the image by hand, see
# README.txt, and run ./load.sh --no-push REGISTRY.
set -eu
# With CDPATH, cd may go elsewhere, and says where.
unset CDPATH
cd -- "$(dirname -- "$0")"

push=yes
if [ "${1-}" = --no-push ]; then
  push=no
  shift
fi
if [ $# -ne 1 ] || [ -z "$1" ]; then
  echo "usage: $0 [--no-push] REGISTRY" >&2
  exit 2
fi
registry="${1%/}"
case "$registry" in
  *[!]a-zA-Z0-9._:/[-]* | *://*)
    echo "$0: $registry is no registry as registry.corp.example/capi" >&2
    exit 2
    ;;
esac
image="$registry/capv-static-ip:@VERSION@"

if [ "$push" = yes ]; then
  case "$(uname -m)" in
    x86_64 | amd64) architecture=amd64 ;;
    aarch64 | arm64) architecture=arm64 ;;
    *) echo "there is no program to push with on $(uname -m), see README.txt" >&2; exit 1 ;;
  esac
  "bin/push-linux-$architecture" images/capv-static-ip-image.oci.tar "$image"
  "bin/push-linux-$architecture" images/capv-static-ip-provider.oci.tar "$registry/capv-static-ip-provider:@VERSION@"
fi

# clusterctl reads URLs, and replaces what has a dollar.
here="$(pwd | sed -e 's/%/%25/g' -e 's/"/%22/g' -e 's/#/%23/g' -e 's/\$/%24/g' -e 's/?/%3F/g' -e 's/\\/%5C/g')"

cat >clusterctl.yaml <<EOF
providers:
- name: capv-static-ip
  type: AddonProvider
  url: "file://$here/addon-capv-static-ip/@VERSION@/addon-components.yaml"
images:
  addon-capv-static-ip:
    repository: "$registry"
# Read only where cert-manager is not there yet. See README.txt.
cert-manager:
  url: "file://$here/cert-manager/@CERT_MANAGER@/cert-manager.yaml"
  version: @CERT_MANAGER@
EOF
cat >values-airgap.yaml <<EOF
image:
  registry: "$registry"
EOF
cat >kubectl/kustomization.yaml <<EOF
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- capv-static-ip.yaml
images:
- name: @REGISTRY@/capv-static-ip
  newName: "$registry/capv-static-ip"
EOF
for name in provider provider-oci; do
  sed "s|@REGISTRY_PATTERN@/capv-static-ip\([^ ]*\)\$|\"$registry/capv-static-ip\1\"|" "operator/$name.yaml" >"operator/$name-airgap.yaml"
done
echo "wrote for $registry:"
echo "clusterctl.yaml values-airgap.yaml kubectl/kustomization.yaml"
echo "operator/provider-airgap.yaml operator/provider-oci-airgap.yaml"
