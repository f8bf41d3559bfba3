// The last Cluster API without v1beta2: only its definitions are used.
module capv-static-ip.dev/tests/programs/cluster-api-1.10

go 1.26.0

require sigs.k8s.io/cluster-api v1.10.10
