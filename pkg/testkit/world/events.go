package world

import "fmt"

// Kind of a frame.
type Kind int

// The kinds.
const (
	Commit Kind = iota
	Sync
	Identity
	AccountNews
)

// String returns the name as in a frame's header.
func (k Kind) String() string { return [...]string{"#commit", "#sync", "#identity", "#account"}[k] }

// birth creates an account live, in the order that a PDS announces it.
func (g *generator) birth(a *Account) {
	a.plan.alive = true
	g.event(a, Identity)
	g.event(a, AccountNews)
	g.event(a, Sync)
	g.active = append(g.active, a)
	g.begin(a)
	g.found()
	g.commit()
}

// unannounced makes commits that no frame tells of, and then a #sync: a PDS
// that lost its place does that. Not for accounts that may end inactive: their
// repositories cannot be fetched then.
func (g *generator) unannounced(a *Account) {
	if g.opts.NoSync || a.state.Born {
		g.post(a)
		return
	}
	for range 1 + g.rng.IntN(3) {
		g.begin(a)
		g.current.silent = true
		g.writePost(nil)
		g.commit()
	}
	g.resync(a)
}

// resync announces the state of a repository that did not change, or changed
// unannounced.
func (g *generator) resync(a *Account) { g.event(a, Sync).rev = "" }

func (g *generator) accountEvent(a *Account) {
	if g.opts.NoAccountEvents {
		g.post(a)
		return
	}
	switch g.rng.IntN(8) {
	case 0, 1:
		g.rename(a)
	case 2:
		g.swapHandles(a, g.actor())
	case 3:
		g.pause(a)
	case 4:
		g.leave(g.newcomer(), "takendown")
	case 5:
		g.leave(g.newcomer(), []string{"deactivated", "suspended"}[g.rng.IntN(2)])
	case 6:
		g.leave(g.newcomer(), "deleted")
	case 7:
		g.move(a)
	}
}

func (g *generator) rename(a *Account) {
	g.stats["renamed"]++
	a.state.Handle = fmt.Sprintf("new%d-%s", g.stats["renamed"], a.state.Handle)
	if len(a.state.Handle) > 40 {
		a.state.Handle = fmt.Sprintf("short%d.test", g.stats["renamed"])
	}
	g.event(a, Identity)
}

func (g *generator) swapHandles(a, b *Account) {
	if a == b {
		g.rename(a)
		return
	}
	g.stats["swapped"]++
	a.state.Handle, b.state.Handle = b.state.Handle, a.state.Handle
	g.event(a, Identity)
	g.event(b, Identity)
}

// pause deactivates an account and brings it back.
func (g *generator) pause(a *Account) {
	g.stats["paused"]++
	a.state.Status = "deactivated"
	g.event(a, AccountNews)
	a.state.Status = ""
	g.event(a, AccountNews)
}

// newcomer finds an account that may end inactive: all that it did was
// announced live, and nobody's rows depend on it.
func (g *generator) newcomer() *Account {
	for range 24 {
		a := g.active[g.rng.IntN(len(g.active))]
		if a.state.Born && a.plan.alive && a.state.Status == "" && !a.plan.pinned && !g.depended(a) {
			return a
		}
	}
	return nil
}

func (g *generator) depended(a *Account) bool {
	for _, r := range a.plan.posts {
		if g.tables.anyQuote(r.URI) != "" || len(g.tables.repostsOf[r.URI]) > 0 {
			return true
		}
	}
	return false
}

func (g *generator) leave(a *Account, status string) {
	if a == nil || g.stats["left"]*8 > len(g.accounts) {
		g.post(g.actor())
		return
	}
	g.stats["left"]++
	g.stats["left "+status]++
	a.state.Status = status
	g.event(a, AccountNews)
	if status == "deleted" {
		a.state.Tombstoned = g.rng.IntN(2) == 0
		a.plan.alive = false
		g.tables.deleteAccount(a)
	}
}

// move takes an account to another server. The old one may say afterwards that
// the account is deactivated, which is true there and nowhere else.
func (g *generator) move(a *Account) {
	if g.opts.PDS < 2 {
		g.rename(a)
		return
	}
	g.stats["moved"]++
	a.state.OldPDS = append(a.state.OldPDS, a.state.PDS)
	a.state.PDS = (a.state.PDS + 1 + g.rng.IntN(g.opts.PDS-1)) % g.opts.PDS
	g.event(a, Identity)
	g.event(a, AccountNews)
	if !g.opts.NoStaleStatus && g.rng.IntN(2) == 0 {
		g.stats["stale status"]++
		j := g.event(a, AccountNews)
		j.active, j.status = false, "deactivated"
	}
}
