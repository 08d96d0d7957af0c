package obs

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Lag exports the event-time lag of the stages of a program: how old an event
// was, by its own time, when the stage had done with it.
type Lag struct {
	stages map[string]*Stage
}

// Stage is the lag of one stage. A nil Stage takes observations and forgets them.
type Stage struct {
	last      atomic.Int64 // event time of the last observation, Unix ns
	lag       prometheus.Gauge
	eventTime prometheus.Gauge
	seconds   prometheus.Observer
	now       func() time.Time
}

// NewLag registers the metrics of the given stages, which are all present from
// the first scrape. A nil reg works and exports nothing.
func NewLag(reg prometheus.Registerer, stages ...string) *Lag {
	lag := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sluice_event_lag_seconds",
		Help: "Age of the last event when the stage finished it. Rises when this stage or one before it is the bottleneck.",
	}, []string{"stage"})
	eventTime := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sluice_event_timestamp_seconds",
		Help: "Own time of the last event that the stage finished, Unix seconds. time() minus this grows while nothing arrives.",
	}, []string{"stage"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:                        "sluice_event_age_seconds",
		Help:                        "Age of events when the stage finished them. Compare the stages to see where time is lost.",
		Buckets:                     []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400},
		NativeHistogramBucketFactor: 1.1,
	}, []string{"stage"})
	if reg != nil {
		for _, c := range []prometheus.Collector{lag, eventTime, seconds} {
			if err := reg.Register(c); err != nil {
				panic(err) // two Lags on one registry is a mistake of the program
			}
		}
	}
	l := &Lag{stages: make(map[string]*Stage, len(stages))}
	for _, s := range stages {
		l.stages[s] = &Stage{lag: lag.WithLabelValues(s), eventTime: eventTime.WithLabelValues(s), seconds: seconds.WithLabelValues(s), now: time.Now}
	}
	return l
}

// Stage returns the stage of that name, nil if it was not declared.
func (l *Lag) Stage(name string) *Stage { return l.stages[name] }

// Observe records that the stage has finished an event of the given time. A
// zero time is ignored. Safe for concurrent use.
func (s *Stage) Observe(eventTime time.Time) {
	if s == nil || eventTime.IsZero() {
		return
	}
	age := max(s.now().Sub(eventTime), 0)
	s.last.Store(eventTime.UnixNano())
	s.lag.Set(age.Seconds())
	s.eventTime.Set(float64(eventTime.UnixMilli()) / 1000)
	s.seconds.Observe(age.Seconds())
}

// Last is the time of the last event observed, zero if there was none.
func (s *Stage) Last() time.Time {
	if s == nil || s.last.Load() == 0 {
		return time.Time{}
	}
	return time.Unix(0, s.last.Load())
}
