// The backfiller fetches the repositories named on the job stream from their
// hosts and writes their records to the backfill stream.
package main

import (
	"context"

	"sluice/pkg/proc"
	"sluice/services/backfiller/app"
)

// version is stamped by the build.
var version = "dev"

func main() {
	var cfg app.Config
	proc.Main("backfiller", version, &cfg, func(ctx context.Context, d proc.Deps) (proc.App, error) {
		return app.New(ctx, cfg, d)
	})
}
