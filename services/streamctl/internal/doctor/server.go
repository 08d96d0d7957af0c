package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sluice/services/streamctl/internal/render"
)

func memory(p *Patient) []Finding {
	const check = "redis memory"
	var out []Finding
	srv := p.Last.Server
	if srv.Policy != "noeviction" {
		out = append(out, Finding{
			Bad, check, fmt.Sprintf("maxmemory-policy is %s", srv.Policy),
			"Redis may delete a whole stream to make room", "redis-cli CONFIG SET maxmemory-policy noeviction, and in its configuration",
		})
	}
	if srv.MaxMemory == 0 {
		out = append(out, Finding{
			Warn, check, "maxmemory is not set",
			"the gates cannot see that memory runs out; the system kills Redis in the end", "redis-cli CONFIG SET maxmemory 8gb (three quarters of what it may use)",
		})
		return out
	}
	if share := float64(srv.UsedMemory) / float64(srv.MaxMemory); share > fullShare {
		out = append(out, Finding{
			Bad, check, fmt.Sprintf("%s of %s are used", render.Bytes(srv.UsedMemory), render.Bytes(srv.MaxMemory)),
			"the producers wait; at the limit Redis refuses writes", "raise maxmemory, lower the marks, or add readers",
		})
	}
	need, parts := int64(0), []string{}
	for _, s := range slices.Sorted(maps.Keys(p.Marks)) {
		if bytes := p.EntryBytes[s]; bytes > 0 {
			need += p.Marks[s] * bytes
			parts = append(parts, fmt.Sprintf("%s %s × %s", s, render.Count(p.Marks[s]), render.Bytes(bytes)))
		}
	}
	if float64(need) > fullShare*float64(srv.MaxMemory) {
		out = append(out, Finding{
			Warn, check, fmt.Sprintf("the marks allow for %s, %s are there (%s)", render.Bytes(need), render.Bytes(srv.MaxMemory), strings.Join(parts, ", ")),
			"memory runs out before the marks are reached; the gates then close by memory", "raise maxmemory or lower the high-water marks",
		})
	}
	return good(out, check, fmt.Sprintf("%s of %s used, noeviction", render.Bytes(srv.UsedMemory), render.Bytes(srv.MaxMemory)))
}

// clock compares ours with those of the servers, and judges what Redis keeps.
func clock(p *Patient) []Finding {
	const check = "redis clock and disk"
	var out []Finding
	srv := p.Last.Server
	if d := srv.ClockSkew.Abs(); d > skew {
		out = append(out, Finding{
			Warn, check, fmt.Sprintf("the clock of Redis differs from ours by %s", render.Age(d)),
			"ages and lag are wrong by that much, and claims come early or late", "synchronise the clocks (chrony, systemd-timesyncd)",
		})
	}
	if !srv.AOF {
		out = append(out, Finding{
			Info, check, "appendonly is off",
			"a crash of Redis loses what came since its last snapshot, with the cursors: it is read again, if the relay still has it", "redis-cli CONFIG SET appendonly yes, and in its configuration",
		})
	}
	return good(out, check, "clock in step, appendonly on")
}

func letters(p *Patient) []Finding {
	const check = "dead letters"
	var out []Finding
	for _, s := range p.Last.Streams {
		if s.DeadLetters == 0 {
			continue
		}
		var parts []string
		for _, r := range slices.Sorted(maps.Keys(p.Reasons[s.Name])) {
			parts = append(parts, fmt.Sprintf("%s %d", r, p.Reasons[s.Name][r]))
		}
		out = append(out, Finding{
			Warn, check, fmt.Sprintf("%s has %s dead letters (%s)", s.Name, render.Count(s.DeadLetters), strings.Join(parts, ", ")),
			"these entries are not in the tables", "streamctl dlq ls " + s.Name + "; then dlq redrive or dlq drop",
		})
	}
	return good(out, check, "none")
}

func database(p *Patient) []Finding {
	const check = "postgresql"
	if p.Database == nil {
		return []Finding{{Bad, check, p.DatabaseError, "nothing is indexed", "see DATABASE_URL and the server"}}
	}
	db := p.Database
	var out []Finding
	if db.ReadOnly {
		out = append(out, Finding{Bad, check, "the server is a standby", "nothing can be written", "point DATABASE_URL at the primary"})
	}
	if !db.Fsync {
		out = append(out, Finding{Bad, check, "fsync is off", "a crash of the machine may destroy the database", "set fsync = on"})
	}
	if db.OldestTx > oldTx {
		out = append(out, Finding{
			Warn, check, fmt.Sprintf("a transaction is open for %s", render.Age(db.OldestTx)),
			"dead rows pile up and rechecks wait for it", "SELECT pid, query FROM pg_stat_activity ORDER BY xact_start",
		})
	}
	if db.Blocked > 0 {
		out = append(out, Finding{Info, check, fmt.Sprintf("%d sessions wait for a lock", db.Blocked), "normal for moments; a problem if it stays", "SELECT * FROM pg_stat_activity WHERE wait_event_type = 'Lock'"})
	}
	if db.ClockSkew.Abs() > skew {
		out = append(out, Finding{
			Warn, check, fmt.Sprintf("its clock differs from ours by %s", render.Age(db.ClockSkew.Abs())),
			"lag in seconds is wrong by that much", "synchronise the clocks (chrony, systemd-timesyncd)",
		})
	}
	return good(out, check, "version "+db.Version+", clock and transactions are fine")
}

// replicas is the number of indexers that read the live stream.
func (p *Patient) replicas() int {
	n := 0
	for _, g := range p.Last.Find(p.Topology.Live).Groups {
		if g.Name != p.Topology.Group {
			continue
		}
		for _, c := range g.Consumers {
			if c.Alive {
				n++
			}
		}
	}
	return n
}

func locks(p *Patient) []Finding {
	const check = "sizing"
	if p.Database == nil {
		return nil
	}
	var out []Finding
	n := int64(max(p.replicas(), 1))
	// One lock per account of a batch; hardly any batch has as many accounts as events.
	if need := n * int64(p.Lanes) * int64(p.Batch); need > p.Database.Locks {
		out = append(out, Finding{
			Warn, check, fmt.Sprintf("%d indexers × %d lanes × %d events may take %s locks; the lock table has %s", n, p.Lanes, p.Batch, render.Count(need), render.Count(p.Database.Locks)),
			"PostgreSQL answers 'out of shared memory' when it is full; batches are then retried", "raise max_locks_per_transaction (restart), or lower INDEXER_CONCURRENCY or INDEXER_BATCH_SIZE",
		})
	}
	if p.Pool < p.Lanes+spare {
		out = append(out, Finding{
			Info, check, fmt.Sprintf("%d connections of an indexer are fewer than its %d lanes and %d more", p.Pool, p.Lanes, spare),
			"an indexer opens fewer lanes than INDEXER_CONCURRENCY says", "raise DB_POOL_MAX_SIZE, or lower INDEXER_CONCURRENCY",
		})
	}
	if need := n * int64(p.Pool); need > p.Database.MaxConnections-5 {
		out = append(out, Finding{
			Warn, check, fmt.Sprintf("%d indexers × %d connections do not fit in max_connections %d", n, p.Pool, p.Database.MaxConnections),
			"new connections are refused under load", "raise max_connections, lower DB_POOL_MAX_SIZE, or put PgBouncer in between",
		})
	}
	return good(out, check, fmt.Sprintf("lock table and connections suffice for %d indexers", n))
}

func backlog(p *Patient) []Finding {
	const check = "database backlog"
	if p.Database == nil {
		return nil
	}
	b := p.Backlog
	text := fmt.Sprintf("%s count changes, %s rechecks, %s handles wait", render.Count(b.CountDeltas), render.Count(b.Rechecks), render.Count(b.Handles))
	if b.CountDeltas > 1_000_000 || b.Rechecks > 100_000 {
		return []Finding{{Warn, check, text, "the elected worker of the indexers is behind, or none runs", "see the log of the indexers; look for a long transaction"}}
	}
	return []Finding{{Level: OK, Check: check, What: text}}
}

func versions(p *Patient) []Finding {
	if len(p.Versions) < 2 {
		parts := []string{"redis " + p.Last.Server.Version}
		for v, names := range p.Versions {
			parts = append(parts, fmt.Sprintf("%d processes of version %s", len(names), v))
		}
		return []Finding{{Level: OK, Check: "versions", What: strings.Join(parts, ", ")}}
	}
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(p.Versions)) {
		parts = append(parts, v+": "+strings.Join(p.Versions[v], " "))
	}
	return []Finding{{Info, "versions", "several versions run: " + strings.Join(parts, "; "), "a rolling restart, or a stale image", ""}}
}
