package world

import "time"

const (
	liveSpan    = time.Hour
	historySpan = 30 * 24 * time.Hour
)

type action struct {
	weight int
	do     func(g *generator, a *Account)
}

// mix is what people do. The proportions are about those of the real network,
// with the rare kinds raised so that a small world has some of each.
func mix() []action {
	engage := func(c string) func(*generator, *Account) {
		return func(g *generator, a *Account) { g.engage(a, c) }
	}
	self := func(c string) func(*generator, *Account) {
		return func(g *generator, a *Account) { g.self(a, c) }
	}
	return []action{
		{420, engage(Like)},
		{100, (*generator).post},
		{110, (*generator).reply},
		{90, engage(Repost)},
		{90, (*generator).follow},
		{24, (*generator).block},
		{24, (*generator).listitem},
		{8, (*generator).list},
		{8, (*generator).listblock},
		{6, (*generator).generatorRecord},
		{6, (*generator).starterpack},
		{6, (*generator).verification},
		{10, (*generator).foreign},
		{4, self(ActorStatus)},
		{3, self(NotifDeclaration)},
		{3, self(ChatDeclaration)},
		{2, self(GermDeclaration)},
	}
}

// changes is what happens only live: history shows what is left of a
// repository, not what has become of it.
func changes() []action {
	return []action{
		{40, (*generator).undo},
		{12, (*generator).edit},
		{12, func(g *generator, a *Account) { g.self(a, Profile) }},
		{10, (*generator).repeat},
		{8, (*generator).relike},
		{6, (*generator).lateGate},
		{5, (*generator).oddReply},
		{3, (*generator).revive},
		{10, (*generator).accountEvent},
		{2, (*generator).unannounced},
		{2, (*generator).resync},
	}
}

type lottery struct {
	total   int
	actions []action
}

func newLottery(lists ...[]action) lottery {
	var l lottery
	for _, list := range lists {
		for _, a := range list {
			l.total += a.weight
			l.actions = append(l.actions, a)
		}
	}
	return l
}

func (l lottery) draw(g *generator) action {
	n := g.rng.IntN(l.total)
	for _, a := range l.actions {
		if n -= a.weight; n < 0 {
			return a
		}
	}
	return l.actions[0]
}

// history plans what happened before the relay's window.
func (g *generator) history(operations int) {
	start := g.opts.End.Add(-liveSpan - historySpan)
	g.micros = start.UnixMicro()
	g.step = 1000
	founded := 0
	for _, a := range g.accounts {
		if a.state.Born || a.Hostile != "" {
			continue
		}
		a.plan.alive = true
		g.begin(a)
		g.found()
		g.commit()
		founded++
	}
	g.enter(false, time.UnixMicro(g.micros), historySpan-time.Hour, operations)
	if len(g.active) == 0 {
		return
	}
	// The quiet accounts have nothing but their history.
	l := newLottery(mix())
	for range operations {
		l.draw(g).do(g, g.actor())
	}
}

// window plans what the relay still has.
func (g *generator) window(operations int) {
	start := g.opts.End.Add(-liveSpan)
	var born []*Account
	for _, a := range g.accounts {
		if a.state.Born {
			born = append(born, a)
		}
	}
	g.enter(true, start, liveSpan, operations+operations/4+8*len(born)+100)
	l := newLottery(mix(), changes())
	if len(g.active) > 0 {
		g.rollCall(l)
	}
	every := max(1, operations/(len(born)+1)/2)
	for n := range operations {
		if len(born) > 0 && n%every == 0 {
			g.birth(born[0])
			born = born[1:]
		}
		g.act(l)
	}
	for _, a := range born {
		g.birth(a)
	}
}

// act is one live step.
func (g *generator) act(l lottery) {
	if g.opts.InvalidShare > 0 && g.rng.Float64() < g.opts.InvalidShare {
		g.invalid(g.actor())
		return
	}
	l.draw(g).do(g, g.actor())
}

// rollCall makes everything happen once, so that even a small world has it.
func (g *generator) rollCall(l lottery) {
	for _, a := range l.actions {
		a.do(g, g.actor())
	}
	a := g.actor()
	g.self(g.accounts[3], Labeler)
	g.begin(a)
	r := g.writePost(nil)
	g.writeThreadgate(r)
	g.writePostgate(r)
	g.commit()
	for _, embed := range []func(*facts) any{g.imagesEmbed, g.videoEmbed, g.galleryEmbed, g.externalEmbed, g.recordEmbed} {
		var f facts
		g.begin(a)
		g.create(Post, g.tid(), map[string]any{"text": "roll call", "createdAt": g.created(), "embed": embed(&f)}, f)
		g.commit()
	}
	if !g.opts.NoAccountEvents {
		g.rename(a)
		g.swapHandles(g.accounts[1], g.accounts[2])
		g.pause(g.accounts[1])
		g.move(g.accounts[2])
	}
}
