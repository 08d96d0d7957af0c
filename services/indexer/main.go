// The indexer applies the events and labels of the streams to the tables of the
// AppView.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"sluice/pkg/proc"
	"sluice/services/indexer/app"
)

// version is stamped by the build.
var version = "dev"

func main() {
	// Little of what is allocated lives longer than its batch, so the collector
	// may let garbage grow to several times the few megabytes that do.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	var cfg app.Config
	os.Args = app.Args(os.Args)
	proc.Main("indexer", version, &cfg, func(ctx context.Context, d proc.Deps) (proc.App, error) {
		return app.New(ctx, cfg, d)
	}, proc.Command{
		Name: "migrate",
		Help: "bring the database up to date; with --check only say what that would take",
		Run:  func(ctx context.Context, d proc.Deps) error { return app.Migrate(ctx, cfg, d) },
	})
}
