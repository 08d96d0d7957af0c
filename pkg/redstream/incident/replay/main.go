// Command replay plays the trimming incident on a Redis and prints what came
// of it with the rules of that time and with ours. It fails if ours lose
// anything or miss a criterion.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"sluice/pkg/redstream/incident"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "incident:", err)
		os.Exit(1)
	}
}

func run() error {
	url := os.Getenv("REDIS_URL")
	if url == "" {
		url = "redis://127.0.0.1:6379"
	}
	flag.StringVar(&url, "redis", url, "Redis to use; its keys that begin with incident: are deleted")
	entries := flag.Int("entries", 20000, "entries of each of the two streams")
	verbose := flag.Bool("v", false, "print the log of our side")
	flag.Parse()
	opts := incident.Options{Entries: *entries}
	if *verbose {
		opts.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	result, err := incident.Run(ctx, url, os.Stdout, opts)
	if err != nil {
		return err
	}
	return result.Err()
}
