// Command bench measures the stream library against bare commands on the same
// Redis, in turns, and prints both with the server's CPU time per entry. The
// ratios are what counts: the rates belong to the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/redis/rueidis"

	"sluice/pkg/redstream"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type config struct {
	url, out       string
	entries, size  int
	rounds, batch  int
	roadEntries    int
	reportEntries  int
	requireTargets bool
}

func run() error {
	cfg := config{}
	url := os.Getenv("REDIS_URL")
	if url == "" {
		url = "redis://127.0.0.1:6379"
	}
	flag.StringVar(&cfg.url, "redis", url, "Redis to use; its keys that begin with bench: are deleted")
	flag.StringVar(&cfg.out, "out", "", "bench.json to merge the rows into")
	flag.IntVar(&cfg.entries, "entries", 100000, "entries of one measurement")
	flag.IntVar(&cfg.size, "size", 1000, "bytes of one entry")
	flag.IntVar(&cfg.rounds, "rounds", 5, "turns of each pair; the median ratio counts")
	flag.IntVar(&cfg.batch, "batch", 500, "entries of one append and of one read")
	flag.BoolVar(&cfg.requireTargets, "check", false, "fail when a ratio is below its target")
	flag.Parse()
	cfg.roadEntries, cfg.reportEntries = 2*cfg.entries, cfg.entries/4

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b, err := newBench(ctx, cfg)
	if err != nil {
		return err
	}
	defer b.close()
	return b.all(ctx)
}

// bench is a client of ours and a bare one on the same Redis.
type bench struct {
	cfg     config
	ours    *redstream.Client
	bare    rueidis.Client
	payload string
}

func newBench(ctx context.Context, cfg config) (*bench, error) {
	ours, err := redstream.Open(ctx, redstream.Config{URL: cfg.url, KeyPrefix: "bench:"}, nil, nil)
	if err != nil {
		return nil, err
	}
	opt, err := rueidis.ParseURL(cfg.url)
	if err != nil {
		ours.Close()
		return nil, err
	}
	opt.DisableCache, opt.ForceSingleClient, opt.DisableRetry = true, true, true
	bare, err := rueidis.NewClient(opt)
	if err != nil {
		ours.Close()
		return nil, err
	}
	return &bench{cfg: cfg, ours: ours, bare: bare, payload: payload(cfg.size)}, nil
}

func (b *bench) close() {
	b.bare.Close()
	b.ours.Close()
}

// payload is text of the given size that does not repeat within a listpack.
func payload(size int) string {
	buf := make([]byte, size)
	x := uint32(1)
	for i := range buf {
		x = x*1664525 + 1013904223
		buf[i] = 'a' + byte(x>>24)%26
	}
	return string(buf)
}
