package store

import (
	"iter"
	"maps"
	"slices"
	"strconv"

	"sluice/services/indexer/internal/derive"
)

// flush queues the difference between what the changes make and what was read.
// Rows go out before others come in, so that a key is free for its next holder.
func (s *sim) flush(w *writes, st *statements) {
	s.flushRecords(w, st)
	s.flushEdges(w, st)
	s.flushRows(w, st)
	s.flushPosts(w, st)
	s.flushFeeds(w, st)
	s.flushQuotes(w, st)
	s.flushDups(w, st)
	s.flushNotifs(w, st)
	s.flushActors(w, st)
	s.flushQueues(w, st)
}

// sorted goes through a map by key: neighbours in an index are written together,
// and every transaction locks rows in one order.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// isNew says that a record is known not to be in the database.
func (s *sim) isNew(uri string) bool {
	_, loaded := s.c.recs.loaded[uri]
	return loaded && s.c.recs.have[uri] == nil
}

func (s *sim) flushRecords(w *writes, st *statements) {
	var gone, touched, revs []string
	var in, changed table
	for uri, r := range sorted(s.recs) {
		switch {
		case r == nil && !s.isNew(uri):
			gone = append(gone, uri)
		case r == nil:
		case r.JSON == "":
			touched, revs = append(touched, uri), append(revs, r.Rev)
		case s.isNew(uri):
			in.add(&r.URI, &r.CID, &r.DID, &r.JSON, &r.IndexedAt, &r.Rev)
		default:
			changed.add(&r.URI, &r.CID, &r.JSON, &r.IndexedAt, &r.Rev)
		}
	}
	st.delete(w.names, "record", "uri", gone)
	st.insertFresh(w.records, &in)
	st.insert(w.recUpdate, &changed)
	if len(touched) > 0 {
		st.exec(w.recTouch, touched, revs)
	}
	var tombs table
	for uri, t := range sorted(s.tombs) {
		tombs.add(&uri, new(t.stored()), &t.At, new(strconv.FormatBool(t.Was)), &t.Born, &t.Root, &t.Parent)
	}
	st.insert(w.tombs, &tombs)
}

func (s *sim) flushEdges(w *writes, st *statements) {
	stored := map[string]bool{}
	for _, e := range s.c.edges {
		for uri := range e.byURI.have {
			stored[uri] = true
		}
		for _, r := range e.byKey.have {
			stored[r.URI] = true
		}
	}
	gone := map[derive.Kind][]string{}
	in := map[derive.Kind][]*edgeRow{}
	for uri, e := range sorted(s.edges) {
		if stored[uri] {
			kind := derive.KindOf(derive.ParseURI(uri).Collection)
			gone[kind] = append(gone[kind], uri)
		}
		if e != nil {
			in[e.Kind] = append(in[e.Kind], e)
		}
	}
	for kind := derive.Like; kind <= derive.Verification; kind++ {
		t := edgeTables[kind]
		st.delete(w.names, t.name, "uri", gone[kind])
		if rows := in[kind]; len(rows) > 0 {
			st.fresh(w.edges[kind], rowsOf(t.columns, rows)...)
		}
	}
}

func (s *sim) flushRows(w *writes, st *statements) {
	for kind := derive.Profile; kind <= derive.Labeler; kind++ {
		var gone []string
		var in []*derive.Record
		for uri, r := range sorted(s.rows[kind]) {
			if !s.isNew(uri) {
				gone = append(gone, uri)
			}
			if r != nil {
				in = append(in, r)
			}
		}
		t := rowTables[kind]
		st.delete(w.names, t.name, "uri", gone)
		if len(in) > 0 {
			st.fresh(w.rows[kind], rowsOf(t.columns, in)...)
		}
	}
}

func (s *sim) flushPosts(w *writes, st *statements) {
	var gone []string
	var in []*postRow
	var flags table
	for uri, p := range sorted(s.posts) {
		if p != nil && p.Full == nil {
			flags.add(&p.URI, boolText(p.HasThreadGate), boolText(p.HasPostGate), boolText(p.InvalidReplyRoot),
				boolText(p.ViolatesThreadGate), boolText(p.ViolatesEmbedding))
			continue
		}
		if s.c.posts.have[uri] != nil {
			gone = append(gone, uri)
		}
		if p != nil {
			in = append(in, p)
		}
	}
	st.delete(w.names, "post", "uri", gone)
	for _, t := range []string{"post_embed_image", "post_embed_gallery_image", "post_embed_external", "post_embed_record", "post_embed_video"} {
		st.delete(w.names, t, `"postUri"`, gone)
	}
	if len(in) > 0 {
		st.fresh(w.posts, rowsOf(postColumns, in)...)
	}
	flushEmbeds(w, st, in)
	st.insert(w.flags, &flags)
	var op table
	for _, o := range sorted(s.opThread) {
		op.add(&o.Root, &o.Parent, &o.URI, o.DeletedAt)
	}
	st.insert(w.opThread, &op)
}

func flushEmbeds(w *writes, st *statements, posts []*postRow) {
	var image, gallery, external, video, record table
	for _, p := range posts {
		row := p.Full.Post
		for _, im := range row.Images {
			image.add(&p.URI, new(strconv.Itoa(im.Position)), &im.CID, &im.Alt)
		}
		for _, im := range row.Gallery {
			gallery.add(&p.URI, new(strconv.Itoa(im.Position)), &im.CID, &im.Alt)
		}
		if x := row.External; x != nil {
			external.add(&p.URI, &x.URI, &x.Title, &x.Description, x.ThumbCID)
		}
		if v := row.Video; v != nil {
			video.add(&p.URI, &v.CID, v.Alt)
		}
		if e := row.Embed; e != nil {
			record.add(&p.URI, &e.URI, &e.CID)
		}
	}
	st.insertFresh(w.embedImage, &image)
	st.insertFresh(w.embedGallery, &gallery)
	st.insertFresh(w.embedExternal, &external)
	st.insertFresh(w.embedVideo, &video)
	st.insertFresh(w.embedRecord, &record)
}

func (s *sim) flushFeeds(w *writes, st *statements) {
	var gone []string
	var in table
	for uri, f := range sorted(s.feeds) {
		if !s.isNew(uri) {
			gone = append(gone, uri)
		}
		if f != nil {
			in.add(&f.URI, &f.CID, &f.Type, &f.PostURI, &f.Originator, &f.SortAt)
		}
	}
	st.delete(w.names, "feed_item", "uri", gone)
	st.insertFresh(w.feeds, &in)
}

func (s *sim) flushQuotes(w *writes, st *statements) {
	var gone []string
	var in table
	for uri, q := range sorted(s.quotes) {
		if s.c.quotes.have[uri] != nil {
			gone = append(gone, uri)
		}
		if q != nil {
			in.add(&q.URI, &q.CID, &q.Subject, &q.SubjectCID, &q.CreatedAt, &q.IndexedAt)
		}
	}
	st.delete(w.names, "quote", "uri", gone)
	st.insertFresh(w.quotes, &in)
}

func (s *sim) flushDups(w *writes, st *statements) {
	var gone []string
	var in table
	for uri, d := range sorted(s.dups) {
		if d == nil {
			gone = append(gone, uri)
		} else {
			in.add(&d.URI, &d.CID, &d.Of, &d.IndexedAt)
		}
	}
	st.delete(w.names, "duplicate_record", "uri", gone)
	st.insert(w.dups, &in)
}

func (s *sim) flushNotifs(w *writes, st *statements) {
	var gone []int64
	var in table
	for uri, now := range sorted(s.notifs) {
		for _, was := range s.c.notifs.have[uri] {
			if !slices.ContainsFunc(now, func(n notifRow) bool { return n.ID == was.ID }) {
				gone = append(gone, was.ID)
			}
		}
		for _, n := range now {
			if n.ID != 0 {
				continue
			}
			if s.arrivedSince(n) {
				n.Thread = &n.Subject
			}
			in.add(&n.DID, &n.RecordURI, &n.RecordCID, &n.Author, &n.Reason, nullable(n.Subject), &n.SortAt, n.Thread)
		}
	}
	if len(gone) > 0 {
		st.exec(w.notifDelete, gone)
	}
	st.insert(w.notifInsert, &in)
}

func (s *sim) flushActors(w *writes, st *statements) {
	var fresh, checks, syncs, accounts table
	var changed []string
	var statuses []*string
	for did, a := range sorted(s.actors) {
		switch {
		case a.fresh:
			fresh.add(&did, &a.IndexedAt, a.Status)
		case a.changed:
			changed, statuses = append(changed, did), append(statuses, a.Status)
		}
	}
	st.insert(w.actors, &fresh)
	if len(changed) > 0 {
		st.exec(w.actorStatus, changed, statuses)
	}
	if s.queueHandles {
		for _, c := range s.checks {
			checks.add(&c.DID, &c.At, new(strconv.FormatBool(c.Force)), new(strconv.FormatBool(c.Fresh)), new(strconv.FormatBool(c.Backfill)))
		}
	}
	st.insert(w.checks, &checks)
	for did, r := range sorted(s.syncs) {
		syncs.add(&did, &r.Commit, &r.Rev)
	}
	st.insert(w.syncs, &syncs)
	for did, a := range sorted(s.accounts) {
		accounts.add(&did, a.Status, &a.StatusAt)
	}
	st.insert(w.accounts, &accounts)
}

func (s *sim) flushQueues(w *writes, st *statements) {
	var deltas, rechecks, waits table
	for k, n := range s.deltas {
		deltas.add(new(strconv.Itoa(int(k.kind))), &k.key, new(strconv.Itoa(n)))
	}
	for r := range s.rechecks {
		rechecks.add(&r.URI, new(strconv.Itoa(int(r.What))), &r.Rev)
	}
	if len(s.settled) > 0 {
		st.exec(w.settle, slices.Collect(maps.Keys(s.settled)))
	}
	for k := range s.waits {
		waits.add(&k[0], &k[1])
	}
	st.insert(w.deltas, &deltas)
	st.insert(w.rechecks, &rechecks)
	if s.again {
		st.insert(w.waitsAgain, &waits)
	} else {
		st.insert(w.waits, &waits)
	}
}
