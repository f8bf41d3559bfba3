// The last CAPV without v1beta2: only its definitions are used.
module capv-static-ip.dev/tests/programs/capv-1.15

go 1.26.0

require sigs.k8s.io/cluster-api-provider-vsphere v1.15.2
