package redstream

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are shared by everything that works on one Client. The gauges of a
// stream are set by Monitor, the counters by who does the work.
type metrics struct {
	length, added, unknownGroups, deadLetters           *prometheus.GaugeVec // stream
	floorAge, floorHolder                               *prometheus.GaugeVec
	lag, pending, oldestPending, deliveredAge, held     *prometheus.GaugeVec // stream, group
	consumerPending, consumerIdle                       *prometheus.GaugeVec // stream, group, consumer
	appended, appendRetries, refused                    *prometheus.CounterVec
	trimmed, parked, redriven, delayed                  *prometheus.CounterVec
	read, acked, ackRetries, ackLost                    *prometheus.CounterVec
	claimed, phantoms, redelivered, recreated, janitors *prometheus.CounterVec
	gateClosed                                          *prometheus.GaugeVec
	gateSeconds                                         *prometheus.CounterVec
	breaker, broken                                     *prometheus.GaugeVec
	memoryUsed, memoryLimit, unsafe                     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		opts := prometheus.GaugeOpts{Namespace: "sluice", Subsystem: "redstream", Name: name, Help: help}
		return register(reg, prometheus.NewGaugeVec(opts, labels))
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		opts := prometheus.CounterOpts{Namespace: "sluice", Subsystem: "redstream", Name: name, Help: help}
		return register(reg, prometheus.NewCounterVec(opts, labels))
	}
	plain := func(name, help string) prometheus.Gauge {
		opts := prometheus.GaugeOpts{Namespace: "sluice", Subsystem: "redstream", Name: name, Help: help}
		return register(reg, prometheus.NewGauge(opts))
	}
	const stream, group, consumer = "stream", "group", "consumer"
	return &metrics{
		length:          gauge("stream_length", "Entries in the stream. Rising for long: the readers are too slow, or something holds the floor.", stream),
		added:           gauge("stream_entries_added", "Entries ever added to the stream; its rate is the rate of writing.", stream),
		unknownGroups:   gauge("unknown_groups", "Groups on the stream that nobody declared. Each of them blocks trimming: name it or destroy it.", stream),
		deadLetters:     gauge("dead_letters", "Parked entries of the stream. Look at them with streamctl dlq.", stream),
		floorAge:        gauge("floor_age_seconds", "Age of the oldest entry that some group still needs; 0 when all is done. Rising: see floor_holder.", stream),
		floorHolder:     gauge("floor_holder", "1 for the group and the consumer that hold the floor.", stream, group, consumer),
		lag:             gauge("group_lag", "Entries not yet delivered to the group; -1 is unknown.", stream, group),
		pending:         gauge("group_pending", "Entries delivered and not yet acknowledged.", stream, group),
		oldestPending:   gauge("oldest_pending_seconds", "Age of the oldest entry delivered and not yet acknowledged.", stream, group),
		deliveredAge:    gauge("last_delivered_age_seconds", "How far behind reading is in time; 0 when the group is at the end.", stream, group),
		held:            gauge("held_entries", "Entries this process holds.", stream, group),
		consumerPending: gauge("consumer_pending", "Entries delivered to the consumer and not yet acknowledged.", stream, group, consumer),
		consumerIdle:    gauge("consumer_idle_seconds", "Time since the consumer last asked for entries; -1 is dead: it has no heartbeat.", stream, group, consumer),
		appended:        counter("appended_total", "Entries appended by this process.", stream),
		appendRetries:   counter("append_retries_total", "Appends repeated after an error. Rising: Redis is away or full.", stream),
		refused:         counter("append_refused_total", "Appends that Redis refused because its memory is full; each is repeated.", stream),
		trimmed:         counter("trimmed_total", "Entries removed by this process after every group had finished them.", stream),
		parked:          counter("parked_total", "Entries moved to the dead letters.", stream, "reason"),
		redriven:        counter("redriven_total", "Dead letters moved back to their stream.", stream),
		delayed:         counter("delayed_total", "Entries scheduled to come again later.", stream),
		read:            counter("read_total", "Entries read from the stream for the first time.", stream, group),
		acked:           counter("acks_total", "Entries acknowledged.", stream, group),
		ackRetries:      counter("ack_retries_total", "Acknowledgement calls repeated after an error.", stream, group),
		ackLost:         counter("acks_abandoned_total", "Acknowledgements given up after the claim time; those entries are delivered again.", stream, group),
		claimed:         counter("claimed_total", "Entries taken over from a consumer that stopped.", stream, group),
		phantoms:        counter("phantoms_total", "Pending ids whose entry does not exist any more, forgotten. Somebody deletes entries.", stream, group),
		redelivered:     counter("redelivered_total", "Entries handed out again.", stream, group),
		recreated:       counter("groups_created_total", "Groups created, at 0. More than once a stream: stream or group was lost.", stream, group),
		janitors:        counter("consumers_removed_total", "Dead consumers with nothing pending, removed.", stream, group),
		gateClosed:      gauge("gate_closed", "1 while producers wait for the stream to shrink or for memory.", stream),
		gateSeconds:     counter("gate_closed_seconds_total", "Time the gate was closed.", stream),
		breaker:         gauge("breaker_open", "1 while everything fails: nothing is claimed, counted or parked.", stream, group),
		broken:          gauge("stream_broken", "1 while the stream cannot be read, for example because its key holds another type.", stream, group),
		memoryUsed:      plain("redis_memory_used_bytes", "Memory of Redis that counts towards its limit."),
		memoryLimit:     plain("redis_memory_limit_bytes", "maxmemory of Redis; 0 is no limit, which lets the system kill it."),
		unsafe:          plain("redis_policy_unsafe", "1 if maxmemory-policy is not noeviction: Redis may delete a whole stream."),
	}
}

// register returns c, or what is already registered under its name: several
// clients of one process count together.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if same, ok := already.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}

// initStream makes the series of a stream appear before anything happens.
func (m *metrics) initStream(stream string) {
	for _, v := range []*prometheus.CounterVec{m.appended, m.appendRetries, m.refused, m.trimmed, m.redriven, m.delayed} {
		v.WithLabelValues(stream)
	}
	m.parked.WithLabelValues(stream, ReasonPoison)
}

// initGroup makes the series of a group appear before anything happens.
func (m *metrics) initGroup(stream, group string) {
	m.initStream(stream)
	for _, v := range []*prometheus.CounterVec{
		m.read, m.acked, m.ackRetries, m.ackLost, m.claimed, m.phantoms, m.redelivered, m.recreated, m.janitors,
	} {
		v.WithLabelValues(stream, group)
	}
	for _, v := range []*prometheus.GaugeVec{m.held, m.breaker, m.broken} {
		v.WithLabelValues(stream, group)
	}
}
