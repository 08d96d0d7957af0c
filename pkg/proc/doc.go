// Package proc is the shell around every program of the suite: configuration,
// logger, signals, the group of goroutines that lives and ends together, the
// admin server and the exit code.
//
// A program's main.go is one call:
//
//	func main() {
//		var cfg app.Config
//		proc.Main("indexer", version, &cfg, func(ctx context.Context, d proc.Deps) (proc.App, error) {
//			return app.New(ctx, cfg, d)
//		})
//	}
//
// Stopping has two stages. The context of Run ends with SIGTERM or SIGINT: take
// no more. WorkContext gives what is in hand the grace time to finish. A second
// signal, or a stop that outlasts the grace time by far, ends the process at
// once with code 1.
package proc
