// Simnet is an AT Protocol network in one process: directory, servers, relay
// and labeler, with faults that can be switched on and a model of what is true.
package main

import (
	"context"

	"sluice/pkg/proc"
	"sluice/services/simnet/app"
)

// version is stamped by the build.
var version = "dev"

func main() {
	var cfg app.Config
	proc.Main("simnet", version, &cfg, func(ctx context.Context, d proc.Deps) (proc.App, error) {
		return app.New(ctx, cfg, d)
	})
}
