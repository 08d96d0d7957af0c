// Package config fills a struct from a YAML file, the environment and flags,
// in that order of precedence, and says everything that is wrong at once.
//
// A setting is an exported field with an env tag:
//
//	type Config struct {
//		// Relays to subscribe to.
//		Relays []string      `env:"INGESTER_RELAY_HOSTS,INGESTER_HOSTS" default:"bsky.network" help:"relays to subscribe to"`
//		Wait   time.Duration `env:"INGESTER_BATCH_TIMEOUT_MS" unit:"ms" default:"1000" min:"1" help:"longest wait for a full batch"`
//		Redis  string        `env:"REDIS_URL" default:"redis://localhost:6379" secret:"true" help:"Redis of the streams"`
//	}
//
// The first name is canonical, the others are aliases that are read when it is
// absent. The same name in lower case is the key of the YAML file (sections
// are joined with an underscore, so "ingester: {relay_hosts: x}" is
// ingester_relay_hosts), and with dashes it is the flag. An empty variable
// counts as absent.
//
// Other tags: default; oneof (comma list); unit ("s" or "ms", for a
// time.Duration given as a bare number; a Go duration is accepted too); min
// and max for numbers and durations (in the unit); required; secret (redacted
// in output; NAME_FILE names a file that holds the value); help. A field of
// struct type without an env tag is searched for settings in turn. A
// Validate() error method of the struct has the last word.
package config
