// The ingester follows relays and labelers, lists repositories, and writes
// what it finds to the streams.
package main

import (
	"context"

	"sluice/pkg/proc"
	"sluice/services/ingester/app"
)

// version is stamped by the build.
var version = "dev"

func main() {
	var cfg app.Config
	proc.Main("ingester", version, &cfg, func(ctx context.Context, d proc.Deps) (proc.App, error) {
		return app.New(ctx, cfg, d)
	})
}
