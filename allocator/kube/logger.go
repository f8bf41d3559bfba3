package kube

import (
	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Logger makes the loggers of a controller. They name the object of a request by
// this key, in the way of Cluster API's providers.
func Logger(mgr manager.Manager, key string) func(*reconcile.Request) logr.Logger {
	return func(req *reconcile.Request) logr.Logger {
		if req == nil {
			return mgr.GetLogger()
		}
		return mgr.GetLogger().WithValues(key, klog.KRef(req.Namespace, req.Name))
	}
}
