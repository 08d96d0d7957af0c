// Package jobs puts repositories on the job stream of the backfill: those that
// an operator names, those of a file, and those that a host lists; and again
// those that have failed.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"sluice/pkg/event"
	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/status"
)

// Chunk is how many jobs are appended in one step.
const Chunk = 500

// Repo is a repository to be fetched. Host and Rev are as listed and may be
// empty.
type Repo struct {
	DID, Host, Rev string
}

// Counts tell how far a run is. They may be read while it goes on.
type Counts struct {
	// Added are the jobs appended.
	Added atomic.Int64
	// Known are repositories left out as already emitted at that rev or later.
	Known atomic.Int64
	// Inactive are repositories left out as their host does not serve them.
	Inactive atomic.Int64
	// Bad are lines and rows that name no repository.
	Bad atomic.Int64
	// Seen are the lines, rows or entries looked at.
	Seen atomic.Int64
}

// Adder appends jobs. It is for one run, and for one goroutine.
type Adder struct {
	// Stream is the stream of jobs, Encoding the form of its entries.
	Stream   string
	Encoding event.Encoding
	// SkipDone leaves out what the ledger has as emitted at the listed rev or
	// later, or at any rev where none is listed.
	SkipDone bool
	Counts   *Counts

	redis  *redstream.Client
	writer *redstream.Writer
	gate   *redstream.Gate
}

// Open prepares an adder that waits while the stream is at its mark; mark 0
// never waits. Close ends it.
func (a *Adder) Open(redis *redstream.Client, mark int64) error {
	w, err := redis.NewWriter(redstream.WriterConfig{Stream: a.Stream})
	if err != nil {
		return fmt.Errorf("open writer of %s: %w", a.Stream, err)
	}
	a.redis, a.writer = redis, w
	if mark > 0 {
		a.gate = redis.NewGate(redstream.GateConfig{Stream: a.Stream, High: mark})
	}
	if a.Counts == nil {
		a.Counts = new(Counts)
	}
	return nil
}

// Close frees the connection of the writer.
func (a *Adder) Close() { a.writer.Close() }

// Waiting says whether the stream is too long for more jobs.
func (a *Adder) Waiting() bool { return a.gate != nil && a.gate.Closed() }

// Add appends a job for each repository, in chunks; durable on return.
func (a *Adder) Add(ctx context.Context, repos []Repo) error {
	for len(repos) > 0 {
		n := min(Chunk, len(repos))
		items, err := a.items(ctx, repos[:n])
		if err != nil {
			return err
		}
		if err := a.wait(ctx); err != nil {
			return err
		}
		if err := a.writer.Append(ctx, items); err != nil {
			return fmt.Errorf("append %d jobs: %w", len(items), err)
		}
		a.Counts.Added.Add(int64(len(items)))
		repos = repos[n:]
	}
	return nil
}

// addPage appends the jobs of a page of a listing and moves its cursor, in one
// step: what was appended is not appended again after a crash.
func (a *Adder) addPage(ctx context.Context, key, expect, next string, repos []Repo) error {
	items, err := a.items(ctx, repos)
	if err != nil {
		return err
	}
	if err := a.wait(ctx); err != nil {
		return err
	}
	added, err := a.writer.AppendCAS(ctx, key, expect, next, items)
	if errors.Is(err, redstream.ErrCursorMoved) {
		return fmt.Errorf("somebody else lists this host at the same time: %w", err)
	}
	if err != nil {
		return fmt.Errorf("append %d jobs: %w", len(items), err)
	}
	a.Counts.Added.Add(int64(added))
	return nil
}

func (a *Adder) wait(ctx context.Context) error {
	if a.gate == nil {
		return ctx.Err()
	}
	return a.gate.Wait(ctx)
}

// items are the entries of the repositories that are to be fetched.
func (a *Adder) items(ctx context.Context, repos []Repo) ([]redstream.Item, error) {
	repos, err := a.unknown(ctx, repos)
	if err != nil {
		return nil, err
	}
	items := make([]redstream.Item, 0, len(repos))
	for _, r := range repos {
		name, value, err := a.Encoding.Job(&event.RepoJob{
			DID: r.DID, Host: r.Host, Rev: r.Rev, Active: true, Reason: event.ReasonManual, Priority: 1,
		})
		if err != nil {
			return nil, fmt.Errorf("encode job of %s: %w", r.DID, err)
		}
		items = append(items, redstream.Item{Fields: []redstream.Field{{Name: name, Value: value}}})
	}
	return items, nil
}

func (a *Adder) unknown(ctx context.Context, repos []Repo) ([]Repo, error) {
	if !a.SkipDone || len(repos) == 0 {
		return repos, nil
	}
	names := make([]string, len(repos))
	for i, r := range repos {
		names[i] = ledgerName(r.DID)
	}
	values, err := status.Ledger(a.redis, a.Stream).Get(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	out := repos[:0:0]
	for i, r := range repos {
		e := parseEntry(values[i])
		if e.rev != "" && e.rev >= r.Rev {
			a.Counts.Known.Add(1)
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

// entry is what the ledger has of a repository.
type entry struct {
	state       byte // 0: nothing
	rev, reason string
}

func parseEntry(v string) entry {
	if v == "" {
		return entry{}
	}
	rev, reason, _ := strings.Cut(v[1:], " ")
	return entry{v[0], rev, reason}
}

const plcMethod = "did:plc:"

// ledgerName is the name of a DID in the ledger, ledgerDID the way back.
func ledgerName(did string) string { return strings.TrimPrefix(did, plcMethod) }

func ledgerDID(name string) string {
	if strings.HasPrefix(name, "did:") {
		return name
	}
	return plcMethod + name
}
