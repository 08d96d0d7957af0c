package atproto_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit"
)

// cpuTime is what the process has used: on a busy machine, what counts.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func productionCommits(b *testing.B) [][]byte {
	b.Helper()
	var out [][]byte
	for _, raw := range readFrames(b, filepath.Join(testkit.Shared(b, "fixtures/firehose"), "frames.bin")) {
		f, err := atproto.ParseFrame(raw)
		require.NoError(b, err)
		if f.Commit != nil {
			out = append(out, raw)
		}
	}
	return out
}

// Frames of the production relay, each level with the encoding of the events,
// and the parts of it alone.
func BenchmarkCommit(b *testing.B) {
	frames := productionCommits(b)
	v := atproto.NewVerifier(firehoseKeys(b), nil)
	run := func(b *testing.B, work func(*atproto.Commit) error) {
		b.Helper()
		b.ReportAllocs()
		start := cpuTime()
		for i := 0; b.Loop(); i++ {
			f, err := atproto.ParseFrame(frames[i%len(frames)])
			if err == nil {
				err = work(f.Commit)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		b.ReportMetric(float64(cpuTime()-start)/float64(b.N), "cpu-ns/op")
	}
	b.Run("parse", func(b *testing.B) { run(b, func(*atproto.Commit) error { return nil }) })
	b.Run("open", func(b *testing.B) { run(b, (*atproto.Commit).Open) })
	b.Run("events", func(b *testing.B) {
		var events []event.Event
		run(b, func(c *atproto.Commit) (err error) {
			events, err = c.Events(events[:0], all, func(*atproto.Op, error) {})
			return err
		})
	})
	b.Run("json", func(b *testing.B) { run(b, encode) })
	for _, level := range []atproto.Level{atproto.Structure, atproto.Full} {
		b.Run(string(level), func(b *testing.B) {
			run(b, func(c *atproto.Commit) error {
				_, err := v.Verify(b.Context(), c, level)
				return err
			})
		})
	}
	b.Run("full+json", func(b *testing.B) {
		run(b, func(c *atproto.Commit) error {
			if _, err := v.Verify(b.Context(), c, atproto.Full); err != nil {
				return err
			}
			return encode(c)
		})
	})
}

func encode(c *atproto.Commit) error {
	events, err := c.Events(nil, all, func(*atproto.Op, error) {})
	for i := range events {
		if err == nil {
			_, _, err = event.JSON.Event(&events[i])
		}
	}
	return err
}

func BenchmarkReadRepo(b *testing.B) {
	for _, n := range []int{100, 20_000} {
		car, _, _ := bigRepo(b, n)
		for _, limit := range []int64{0, 1} {
			b.Run(fmt.Sprintf("%d spilled=%t", n, limit > 0), func(b *testing.B) {
				b.SetBytes(int64(len(car)))
				b.ReportAllocs()
				start := cpuTime()
				for b.Loop() {
					info, err := atproto.ReadRepo(b.Context(), bytes.NewReader(car), atproto.RepoOptions{MemoryLimit: limit}, func(atproto.Record) error { return nil })
					if err != nil || info.Emitted != int64(n) {
						b.Fatal(info, err)
					}
				}
				b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "records/s")
				b.ReportMetric(float64(cpuTime()-start)/float64(b.N*n), "cpu-ns/record")
			})
		}
	}
}
