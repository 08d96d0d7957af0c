// Package incident replays the trimming incident of October 2025 on a real
// Redis, once with the rules of that time and once with ours: consumers that
// stay in their own history, crashed consumers, phantoms, streams that do not
// shrink, consumers deleted by hand.
package incident

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/redis/rueidis"
)

// Options sets the scale.
type Options struct {
	// Entries of each of the two streams. Default 6000.
	Entries int
	// Mark is the high-water mark of the producers, in entries. Default a
	// fifth of Entries.
	Mark int
	// Quiet is the time without progress after which a side has come to rest.
	// Default 2s.
	Quiet time.Duration
	// KeyPrefix goes before all keys; they are deleted before and after.
	// Default "incident:".
	KeyPrefix string
	// Log gets the log of our side. Default: nothing.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Entries <= 0 {
		o.Entries = 6000
	}
	if o.Mark <= 0 {
		o.Mark = o.Entries / 5
	}
	if o.Quiet <= 0 {
		o.Quiet = 2 * time.Second
	}
	if o.KeyPrefix == "" {
		o.KeyPrefix = "incident:"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Outcome is what came of one side.
type Outcome struct {
	// In entries were appended; Indexed of them were processed at least once.
	In      int `json:"in"`
	Indexed int `json:"indexed"`
	// Lost entries were not processed and never will be: they are gone, or
	// acknowledged.
	Lost int `json:"lost"`
	// Stuck entries are still there, and nobody works on them.
	Stuck int `json:"stuck"`
	// Idle consumers run and get nothing, while there is work.
	Idle int `json:"idle"`
	// Phantoms are pending ids without an entry.
	Phantoms int `json:"phantoms"`
	// Length is the sum of the lengths of the streams.
	Length int `json:"length"`
	// Waiting producers stand at the mark.
	Waiting int `json:"waiting"`
	// Took is the time until the side came to rest.
	Took time.Duration `json:"took_ns"`
}

// Story is what came of one side before and after the operator acted.
type Story struct {
	Before Outcome `json:"before"`
	After  Outcome `json:"after"`
}

// Check is one criterion of the report, judged on our side.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Result is both sides and the criteria.
type Result struct {
	Report Story   `json:"report"`
	Ours   Story   `json:"ours"`
	Checks []Check `json:"checks"`
}

// Err says what of our side does not hold.
func (r Result) Err() error {
	var errs []error
	for _, c := range r.Checks {
		if !c.OK {
			errs = append(errs, fmt.Errorf("%s: %s", c.Name, c.Detail))
		}
	}
	return errors.Join(errs...)
}

// Run plays the incident on both sides, one after the other, and prints a table.
func Run(ctx context.Context, redisURL string, out io.Writer, opts Options) (Result, error) {
	opts = opts.withDefaults()
	opt, err := rueidis.ParseURL(redisURL)
	if err != nil {
		return Result{}, fmt.Errorf("incident: %w", err)
	}
	opt.DisableCache, opt.ForceSingleClient, opt.DisableRetry = true, true, true
	rc, err := rueidis.NewClient(opt)
	if err != nil {
		if rc != nil {
			rc.Close()
		}
		return Result{}, fmt.Errorf("incident: connect %s: %w", redisURL, err)
	}
	defer rc.Close()
	r := Result{}
	old := newWorld(rc, opts, "report:")
	if r.Report, err = old.play(ctx, newReport(old)); err != nil {
		return r, fmt.Errorf("incident, the report's rules: %w", err)
	}
	now := newWorld(rc, opts, "ours:")
	ours, err := newOurs(ctx, redisURL, now)
	if err != nil {
		return r, fmt.Errorf("incident: %w", err)
	}
	if r.Ours, err = now.play(ctx, ours); err != nil {
		return r, fmt.Errorf("incident, our rules: %w", err)
	}
	r.Checks = ours.judge(r.Ours.After)
	return r, r.print(out)
}

// print writes the table and the checks.
func (r Result) print(out io.Writer) error {
	type line struct {
		name      string
		old, ours any
	}
	lines := []line{{"left to itself:", "", ""}}
	for _, o := range []struct{ old, ours Outcome }{{r.Report.Before, r.Ours.Before}, {r.Report.After, r.Ours.After}} {
		lines = append(lines, line{"  entries in", o.old.In, o.ours.In}, line{"  indexed", o.old.Indexed, o.ours.Indexed},
			line{"  lost", o.old.Lost, o.ours.Lost}, line{"  stuck", o.old.Stuck, o.ours.Stuck},
			line{"  phantoms", o.old.Phantoms, o.ours.Phantoms}, line{"  length after", o.old.Length, o.ours.Length},
			line{"  idle consumers", o.old.Idle, o.ours.Idle}, line{"  producers waiting", o.old.Waiting, o.ours.Waiting})
		if len(lines) < 10 {
			lines = append(lines, line{"after the operator's part:", "", ""})
		}
	}
	lines = append(lines, line{"at rest after", r.Report.After.Took.Round(time.Millisecond), r.Ours.After.Took.Round(time.Millisecond)})
	_, err := fmt.Fprintf(out, "%-28s %12s %12s\n", "", "the report", "ours")
	for _, l := range lines {
		_, bad := fmt.Fprintf(out, "%-28s %12v %12v\n", l.name, l.old, l.ours)
		err = errors.Join(err, bad)
	}
	_, bad := fmt.Fprintln(out)
	err = errors.Join(err, bad)
	for _, c := range r.Checks {
		mark := "ok  "
		if !c.OK {
			mark = "FAIL"
		}
		_, bad := fmt.Fprintf(out, "%s %-44s %s\n", mark, c.Name, c.Detail)
		err = errors.Join(err, bad)
	}
	return err
}
