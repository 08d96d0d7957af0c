package pg

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// Collector exports the state of a pool.
type Collector struct {
	stat func() *pgxpool.Stat

	connections, limit, acquires, waited, canceled, waitSeconds, opened, closed *prometheus.Desc
}

// NewCollector returns the metrics of pool. name tells the pools of one
// process apart ("main").
func NewCollector(name string, pool *pgxpool.Pool) *Collector {
	labels := prometheus.Labels{"pool": name}
	desc := func(metric, help string, variable ...string) *prometheus.Desc {
		return prometheus.NewDesc("sluice_pg_"+metric, help, variable, labels)
	}
	return &Collector{
		stat:        pool.Stat,
		connections: desc("connections", "Connections of the pool by state. All in use for long means that the pool is the bottleneck.", "state"),
		limit:       desc("connections_max", "Most connections the pool may open (DB_POOL_MAX_SIZE)."),
		acquires:    desc("acquires_total", "Connections taken from the pool."),
		waited:      desc("acquires_waited_total", "Times that no idle connection was there. Rises with acquires when the pool is too small."),
		canceled:    desc("acquires_canceled_total", "Times that the caller gave up before it got a connection."),
		waitSeconds: desc("acquire_wait_seconds_total", "Time spent waiting for a connection."),
		opened:      desc("connections_opened_total", "Connections opened. A steady rise means that the server or a pooler closes them."),
		closed:      desc("connections_closed_total", "Connections closed by the pool, by reason.", "reason"),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.connections, c.limit, c.acquires, c.waited, c.canceled, c.waitSeconds, c.opened, c.closed} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s := c.stat()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...) //nolint:promlinter // it cannot follow the description
	}
	send(c.connections, prometheus.GaugeValue, float64(s.AcquiredConns()), "in_use")
	send(c.connections, prometheus.GaugeValue, float64(s.IdleConns()), "idle")
	send(c.connections, prometheus.GaugeValue, float64(s.ConstructingConns()), "opening")
	send(c.limit, prometheus.GaugeValue, float64(s.MaxConns()))
	send(c.acquires, prometheus.CounterValue, float64(s.AcquireCount()))
	send(c.waited, prometheus.CounterValue, float64(s.EmptyAcquireCount()))
	send(c.canceled, prometheus.CounterValue, float64(s.CanceledAcquireCount()))
	send(c.waitSeconds, prometheus.CounterValue, s.EmptyAcquireWaitTime().Seconds())
	send(c.opened, prometheus.CounterValue, float64(s.NewConnsCount()))
	send(c.closed, prometheus.CounterValue, float64(s.MaxLifetimeDestroyCount()), "lifetime")
	send(c.closed, prometheus.CounterValue, float64(s.MaxIdleDestroyCount()), "idle")
}
