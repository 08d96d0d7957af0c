package redstream

import (
	"bufio"
	"context"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

// Server is what a Redis says of itself.
type Server struct {
	// Product is "redis" or "valkey", Version its own version.
	Product, Version string
	// Policy is maxmemory-policy.
	Policy string
	// UsedMemory counts towards MaxMemory; MaxMemory 0 is no limit. Bytes.
	UsedMemory, MaxMemory int64
	// Features names newer commands that the server knows: XACKDEL, XDELEX,
	// XNACK, XCFGSET. They are reported only: the library does without them.
	Features []string
}

// Inspect asks every node again and returns the fullest one. Unlike Open it
// does not refuse an unsuitable server.
func (c *Client) Inspect(ctx context.Context) (Server, error) {
	var worst Server
	first := true
	for addr, node := range c.rc.Nodes() {
		s, err := c.inspectNode(ctx, addr, node)
		if err != nil {
			return Server{}, err
		}
		if first || fill(s) > fill(worst) {
			worst, first = s, false
		}
	}
	return worst, nil
}

func fill(s Server) float64 {
	if s.MaxMemory <= 0 {
		return 0
	}
	return float64(s.UsedMemory) / float64(s.MaxMemory)
}

// newer are the commands of later servers that would replace rounds of ours.
var newer = []string{"XACKDEL", "XDELEX", "XNACK", "XCFGSET"}

func (c *Client) inspectNode(ctx context.Context, addr string, node rueidis.Client) (Server, error) {
	once, cancel := attempt(ctx)
	defer cancel()
	rs := node.DoMulti(once,
		node.B().Info().Section("server").Build(),
		node.B().Info().Section("memory").Build(),
		node.B().CommandInfo().CommandName(newer...).Build())
	text := make([]string, 2)
	for i := range text {
		var err error
		if text[i], err = rs[i].ToString(); err != nil {
			return Server{}, classify("info", addr, err)
		}
	}
	s := serverOf(infoFields(text[0] + "\n" + text[1]))
	if known, err := rs[2].ToArray(); err == nil {
		for i, m := range known {
			if !m.IsNil() && i < len(newer) {
				s.Features = append(s.Features, newer[i])
			}
		}
	}
	return s, nil
}

func serverOf(info map[string]string) Server {
	s := Server{Product: "redis", Version: info["redis_version"], Policy: info["maxmemory_policy"]}
	if v, ok := info["valkey_version"]; ok {
		s.Product, s.Version = "valkey", v
	}
	s.UsedMemory, s.MaxMemory = memoryOf(info)
	return s
}

// memoryOf returns what counts towards the limit, and the limit.
func memoryOf(info map[string]string) (used, limit int64) {
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(info[name], 10, 64)
		return n
	}
	return number("used_memory") - number("mem_not_counted_for_evict"), number("maxmemory")
}

// Check refuses a server that loses entries or lacks what the library needs.
func (s Server) Check() error {
	major, _, _ := strings.Cut(s.Version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 {
		return fault.Fatalf("%w: %s %s", ErrTooOld, s.Product, s.Version)
	}
	if s.Policy != "noeviction" {
		return fault.Fatalf("%w: it is %q (redis-cli CONFIG SET maxmemory-policy noeviction)", ErrEvicting, s.Policy)
	}
	return nil
}

// infoFields reads the name:value lines of INFO.
func infoFields(text string) map[string]string {
	fields := make(map[string]string)
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}
