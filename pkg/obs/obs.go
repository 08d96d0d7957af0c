// Package obs makes the metrics registry of a program and the gauges that say
// how far behind the network a stage is.
package obs

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry returns a registry with the Go and process collectors and the
// build information of the service.
func NewRegistry(service, version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sluice_build_info",
		Help: "Always 1; the labels say what runs. Differing versions among replicas mean a rolling restart or a stale image.",
	}, []string{"service", "version", "revision", "go_version"})
	info.WithLabelValues(service, version, revision(), runtime.Version()).Set(1)
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info,
	} {
		_ = reg.Register(c) // a fresh registry cannot refuse
	}
	return reg
}

func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unknown"
}
