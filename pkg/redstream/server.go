package redstream

import (
	"bufio"
	"context"
	"strconv"
	"strings"
	"time"

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
	// AOF says that what was written survives a crash of the server, but for the
	// last moment.
	AOF bool
	// ClockSkew is our clock minus its own, give or take a tenth of a second. Ids
	// of entries, and with them ages and lag, are by its clock.
	ClockSkew time.Duration
	// Features names what later servers have and this one knows: the commands
	// XACKDEL, XDELEX, XNACK, XCFGSET, and the options "XTRIM ACKED" and
	// "XREADGROUP CLAIM". They are reported only: the library does without them.
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
	before := time.Now()
	rs := node.DoMulti(once,
		node.B().Info().Section("server").Section("memory").Section("persistence").Build(),
		node.B().CommandInfo().CommandName(newer...).Build(),
		node.B().CommandDocs().CommandName("XTRIM", "XREADGROUP").Build())
	text, err := rs[0].ToString()
	if err != nil {
		return Server{}, classify("info", addr, err)
	}
	info := infoFields(text)
	s := serverOf(info)
	if usec, err := strconv.ParseInt(info["server_time_usec"], 10, 64); err == nil {
		s.ClockSkew = before.Add(time.Since(before) / 2).Sub(time.UnixMicro(usec))
	}
	if known, err := rs[1].ToArray(); err == nil {
		for i, m := range known {
			if !m.IsNil() && i < len(newer) {
				s.Features = append(s.Features, newer[i])
			}
		}
	}
	s.Features = append(s.Features, options(rs[2], "XTRIM ACKED", "XREADGROUP CLAIM")...)
	return s, nil
}

// options returns those of the wanted "COMMAND TOKEN" that the answer to
// COMMAND DOCS documents. A server that cannot answer has none.
func options(docs rueidis.RedisResult, want ...string) []string {
	commands, err := docs.AsMap()
	if err != nil {
		return nil
	}
	var have []string
	for _, w := range want {
		name, token, _ := strings.Cut(w, " ")
		if doc, ok := commands[strings.ToLower(name)]; ok && hasToken(doc, token) {
			have = append(have, w)
		}
	}
	return have
}

// hasToken looks for the text token anywhere in m.
func hasToken(m rueidis.RedisMessage, token string) bool {
	if text, err := m.ToString(); err == nil {
		return text == token
	}
	if fields, err := m.AsMap(); err == nil {
		for _, v := range fields {
			if hasToken(v, token) {
				return true
			}
		}
		return false
	}
	items, err := m.ToArray()
	if err != nil {
		return false
	}
	for _, v := range items {
		if hasToken(v, token) {
			return true
		}
	}
	return false
}

func serverOf(info map[string]string) Server {
	s := Server{Product: "redis", Version: info["redis_version"], Policy: info["maxmemory_policy"], AOF: info["aof_enabled"] == "1"}
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
