package app

import (
	"context"
	"maps"
	"sync"
	"time"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/road"
	"sluice/services/streamctl/internal/status"
)

// sight looks at the sluice for whoever watches it. Its methods may be called
// at the same time; Redis and PostgreSQL are opened when they can be.
type sight struct {
	t *tool

	opening sync.Mutex // held while Redis is opened
	redis   *redstream.Client
	gates   map[string]*redstream.Gate
	near    *status.Camera // owned by Look
	far     *status.Camera // owned by Examine, like all below

	first   *status.Picture
	listed  time.Time
	cursors map[string]map[string]string
}

// cursorsEvery is how often the cursors are looked for, which scans the keys.
const cursorsEvery = time.Minute

// client opens Redis on first use.
func (s *sight) client(ctx context.Context) (*redstream.Client, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	if s.redis != nil {
		return s.redis, nil
	}
	redis, err := s.t.client(ctx)
	if err != nil {
		return nil, err
	}
	top := s.t.settings.topology()
	s.near, s.far = &status.Camera{Redis: redis, Topology: top}, &status.Camera{Redis: redis, Topology: top}
	s.gates = map[string]*redstream.Gate{}
	for stream, mark := range s.t.settings.marks() {
		s.gates[stream] = redis.NewGate(redstream.GateConfig{Stream: stream, High: mark})
	}
	s.redis = redis
	return redis, nil
}

// Look takes a picture, with the gates and the backfill.
func (s *sight) Look(ctx context.Context) (*road.Look, error) {
	if _, err := s.client(ctx); err != nil {
		return nil, err
	}
	p, err := s.near.Take(ctx)
	if err != nil {
		return nil, err
	}
	l := &road.Look{Topology: s.near.Topology, Picture: p, Marks: s.t.settings.marks(), Closed: map[string]bool{}}
	for stream, gate := range s.gates {
		if l.Closed[stream], err = gate.Look(ctx); err != nil {
			return nil, err
		}
	}
	l.Backfill, err = s.near.Backfill(ctx, p, s.t.settings.BackfillMark, false)
	return l, err
}

// Examine runs the checks of doctor over the time since it was called last.
func (s *sight) Examine(ctx context.Context) (*road.Examination, error) {
	redis, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	last, err := s.far.Take(ctx)
	if err != nil {
		return nil, err
	}
	first := s.first
	if first == nil {
		first = &status.Picture{At: last.At} // nothing was there: nothing had to shrink
	}
	s.first = last
	p, err := s.t.patient(ctx, redis, first, last)
	if err != nil {
		return nil, err
	}
	if time.Since(s.listed) > cursorsEvery {
		found := map[string]map[string]string{}
		for _, stream := range s.far.Topology.Streams() {
			if found[stream], err = redis.Cursors(ctx, stream); err != nil {
				return nil, err
			}
		}
		s.cursors, s.listed = found, time.Now()
	}
	return &road.Examination{
		At: last.At, Findings: doctor.Examine(p), Reasons: p.Reasons, Cursors: maps.Clone(s.cursors), Tables: s.tables(ctx, p),
	}, nil
}

// Letters are the dead letters of a stream.
func (s *sight) Letters(ctx context.Context, stream string) (*redstream.DLQ, error) {
	if _, err := s.client(ctx); err != nil {
		return nil, err
	}
	return s.t.letters(ctx, stream)
}

// tables asks PostgreSQL how full they are; patient p has said how it is.
func (s *sight) tables(ctx context.Context, p *doctor.Patient) road.Tables {
	if p.Database == nil {
		return road.Tables{State: "unreachable", Error: p.DatabaseError}
	}
	out := road.Tables{State: "ok", Version: p.Database.Version, Waiting: p.Backlog.CountDeltas + p.Backlog.Rechecks + p.Backlog.Handles}
	db, err := s.t.database(ctx)
	if err == nil {
		out.Rows, err = db.Rows(ctx, false)
	}
	if err != nil {
		return road.Tables{State: "unreachable", Error: err.Error()}
	}
	return out
}
