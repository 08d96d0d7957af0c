// Package app is the simulated network as a program.
package app

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice/pkg/testkit/simnet"
	"sluice/pkg/testkit/world"
)

// Config holds the settings of the program.
type Config struct {
	// Listen is the host, or host:port, to listen at. With a port, the servers
	// get fixed ports from it on: PLC, then the labeler, relays from +10 and
	// PDSes from +20.
	Listen string `env:"SIMNET_LISTEN" default:"127.0.0.1" help:"host, or host:first port; without a port any free ones are taken"`
	// Name is what documents and lists call this machine.
	Name string `env:"SIMNET_NAME" help:"host name that DID documents and lists tell; default the host of SIMNET_LISTEN"`
	Role string `env:"SIMNET_ROLE" default:"all" oneof:"all,plc,pds,relay,labeler" help:"what this process serves; processes with the same settings serve the same world"`

	Seed     int64 `env:"SIMNET_SEED" default:"1" min:"0" help:"decides everything that is left to chance"`
	Accounts int   `env:"SIMNET_ACCOUNTS" default:"200" min:"8" help:"number of accounts"`
	Records  int   `env:"SIMNET_RECORDS" default:"20000" min:"0" help:"about how many record operations happen, in history and live together"`
	PDS      int   `env:"SIMNET_PDS" default:"3" min:"1" max:"200" help:"number of personal data servers"`
	Relays   int   `env:"SIMNET_RELAYS" default:"1" min:"1" max:"10" help:"number of relays that serve the same network"`
	Labels   int   `env:"SIMNET_LABELS" default:"0" min:"0" help:"number of labels; 0 is a twentieth of the records"`

	BackfillShare float64 `env:"SIMNET_BACKFILL_SHARE" default:"0.3" min:"0" max:"0.95" help:"share of accounts and operations that only repositories tell of"`
	BornShare     float64 `env:"SIMNET_BORN_SHARE" default:"0.2" min:"0" max:"0.9" help:"share of accounts that are created live"`
	InvalidShare  float64 `env:"SIMNET_INVALID_SHARE" default:"0" min:"0" max:"0.9" help:"share of live operations whose record its lexicon rejects"`
	// Hostile accounts are taken from the accounts, one for each name.
	Hostile []string `env:"SIMNET_HOSTILE" help:"repositories that are traps: all, or a list of kinds"`

	Rate   float64 `env:"SIMNET_RATE" default:"0" min:"0" help:"frames a second for each subscription; 0 is as fast as they are read"`
	Faults string  `env:"SIMNET_FAULTS" help:"faults, as name=times/every: disconnect=3/100,pds_429=2; all is each one once"`
	// Live and LiveRate: what happens after the world that was made ahead.
	Live     time.Duration `env:"SIMNET_LIVE_SECONDS" unit:"s" default:"0" min:"0" help:"how long new things keep happening after the start"`
	LiveRate float64       `env:"SIMNET_LIVE_RATE" default:"50" min:"0" help:"new events a second in that time"`
	Clock    string        `env:"SIMNET_CLOCK" default:"fixed" oneof:"fixed,now" help:"the time of the last event made ahead: fixed, so that a run can be repeated byte for byte, or now"`

	// MetricsPort: many networks may run on one machine.
	MetricsPort int    `env:"METRICS_PORT" default:"0" min:"0" max:"65535" help:"port of /metrics, /healthz, /readyz and /debug/pprof; 0 takes any free port"`
	EnvFile     string `env:"SIMNET_ENV_FILE" help:"file that gets the settings of the services for this network, as NAME=value lines"`
}

// Validate implements the last check of the configuration.
func (c *Config) Validate() error {
	var errs []error
	if _, _, err := c.address(); err != nil {
		errs = append(errs, err)
	}
	if c.Role != "all" && !strings.Contains(c.Listen, ":") {
		errs = append(errs, fmt.Errorf("SIMNET_ROLE %q needs a port in SIMNET_LISTEN (%q): every process must know the addresses of the others", c.Role, c.Listen))
	}
	if c.Role != "all" && c.Live > 0 {
		errs = append(errs, fmt.Errorf("SIMNET_LIVE_SECONDS works with SIMNET_ROLE all only: what happens live is known to one process"))
	}
	if c.Role != "all" && c.Clock == "now" {
		errs = append(errs, fmt.Errorf("SIMNET_CLOCK now works with SIMNET_ROLE all only: every process must make the same world"))
	}
	if err := c.world().Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// address splits Listen.
func (c *Config) address() (host string, port int, err error) {
	host, text, given := strings.Cut(c.Listen, ":")
	if !given {
		return host, 0, nil
	}
	if _, err := fmt.Sscanf(text, "%d", &port); err != nil || port < 1 || port > 65000 {
		return "", 0, fmt.Errorf("SIMNET_LISTEN %q: the port must be 1 to 65000", c.Listen)
	}
	return host, port, nil
}

func (c *Config) world() world.Options {
	hostile := c.Hostile
	if slices.Equal(hostile, []string{"all"}) {
		hostile = world.HostileKinds()
	}
	o := world.Options{
		Seed: uint64(c.Seed), Accounts: c.Accounts, Records: c.Records, PDS: c.PDS, Labels: c.Labels,
		BackfillShare: orNone(c.BackfillShare), BornShare: orNone(c.BornShare), InvalidShare: c.InvalidShare, Hostile: hostile,
	}
	if c.Clock == "now" {
		o.End = time.Now().UTC().Truncate(time.Second)
	}
	return o
}

// orNone tells a share of 0 from one that is not given.
func orNone(share float64) float64 {
	if share == 0 {
		return -1
	}
	return share
}

func (c *Config) options() (simnet.Options, error) {
	host, port, err := c.address()
	return simnet.Options{
		World: c.world(), Faults: c.Faults, Relays: c.Relays, Rate: c.Rate, Host: host, Name: c.Name, BasePort: port,
		Role: c.Role,
	}, err
}
