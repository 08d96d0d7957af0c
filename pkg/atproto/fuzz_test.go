package atproto_test

import (
	"bytes"
	"testing"

	"sluice/pkg/atproto"
	"sluice/pkg/dagcbor"
	"sluice/pkg/event"
)

// classed fails when an error of hostile input has no reason.
func classed(t *testing.T, err error) {
	t.Helper()
	if err != nil && atproto.ReasonOf(err) == "" {
		t.Fatalf("error without reason: %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	a := newAccount(f)
	for path := range a.leaves { // a small one: mutations of it are many more
		if path > "app.bsky.feed.post/C" {
			delete(a.leaves, path)
		}
	}
	a.store = atproto.Store{}
	for path := range a.leaves {
		a.leaves[path] = a.store.Put(post(path))
	}
	a.data = a.store.Tree(a.leaves)
	keys := a.keys(f)
	f.Add(a.sample().Frame())
	f.Add(message(f, 1, "#account", `{"seq":6,"did":"`+testDID+`","time":"`+testNow+`","active":false}`))
	f.Add(message(f, 1, "#labels", `{"seq":6,"labels":[{"src":"`+testDID+`","uri":"at://x","val":"v","cts":"t","sig":{"$bytes":"AQ"}}]}`))
	f.Add(message(f, -1, "", `{"error":"FutureCursor"}`))
	f.Add(message(f, 1, "#new", `{"seq":6}`))
	v := atproto.NewVerifier(keys, clock)
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := atproto.ParseFrame(b)
		classed(t, err)
		if err != nil {
			return
		}
		if frame.Commit != nil {
			_, err := v.Verify(t.Context(), frame.Commit, atproto.Structure)
			classed(t, err)
			events, err := frame.Commit.Events(nil, all, func(_ *atproto.Op, err error) { classed(t, err) })
			classed(t, err)
			for i := range events {
				if _, _, err := event.JSON.Event(&events[i]); err != nil {
					t.Fatalf("encode: %v", err)
				}
			}
		}
		if frame.Sync != nil {
			classed(t, frame.Sync.Open())
		}
	})
}

func FuzzCAR(f *testing.F) {
	car, _, _ := bigRepo(f, 5)
	f.Add(car)
	f.Add(car[:len(car)/2])
	s := atproto.Store{}
	f.Add(s.CAR(s.Commit(testDID, testRev, s.Tree(nil), newKey(f))))
	f.Fuzz(func(t *testing.T, b []byte) {
		classed(t, atproto.ReadCAR(b))
		n := int64(0)
		info, err := atproto.ReadRepo(t.Context(), bytes.NewReader(b), atproto.RepoOptions{MaxBlocks: 1000}, func(r atproto.Record) error {
			n++
			return dagcbor.Validate(r.Value)
		})
		if info.Emitted != n {
			t.Fatalf("emitted %d, said %d", n, info.Emitted)
		}
		_ = err // a length of too many bytes has no reason
	})
}

func FuzzNode(f *testing.F) {
	f.Add(atproto.NodeBytes(atproto.CID{}))
	c := atproto.SumCID(nil)
	f.Add(atproto.NodeBytes(c, atproto.TreeEntry{Key: "A0/374913", Value: c}, atproto.TreeEntry{Key: "A1/076595", Value: c, Right: c}))
	f.Fuzz(func(t *testing.T, b []byte) {
		classed(t, atproto.ParseNode(b))
		s := atproto.Store{}
		root := s.Put(b)
		tree, err := atproto.NewEdit(root, s)
		classed(t, err)
		if err != nil {
			return
		}
		if _, err := tree.Get("A0/374913"); err != nil {
			classed(t, err)
		}
		if tree.Insert("C2/014073", c) == nil {
			if got, err := tree.Get("C2/014073"); err != nil || got != c {
				t.Fatalf("inserted %v, got %v %v", c, got, err)
			}
			if err := tree.Remove("C2/014073"); err != nil {
				classed(t, err)
			}
		}
		_ = tree.Hash()
	})
}

func FuzzDocument(f *testing.F) {
	for _, name := range []string{"did_plc_doc.json", "did_plc_doc_legacy.json", "did_web_doc.json", "greenground.didDoc.json"} {
		f.Add(interop(f, name))
	}
	f.Add(document(f, testDID, "a.test", "https://p.test", multibase(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, did := range []string{testDID, "did:plc:ewvi7nxzyoun6zhxrhs64oiz"} {
			_, err := atproto.ParseDocument(did, b)
			classed(t, err)
		}
	})
}

func FuzzLabels(f *testing.F) {
	key := publicKey(f, newKey(f))
	f.Add(message(f, 1, "#labels", `{"seq":6,"labels":[{"src":"`+testDID+`","uri":"at://x","val":"v","cts":"t","ver":1,"neg":true,"exp":"e","cid":"c","sig":{"$bytes":"AQ"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := atproto.ParseFrame(b)
		if err != nil || frame.Labels == nil {
			return
		}
		for _, l := range frame.Labels.Labels {
			if !l.Valid() {
				t.Fatalf("invalid label %+v", l)
			}
			_ = atproto.VerifyLabel(&l, key)
			e := event.LabelEvent{Seq: frame.Seq, Host: "h", Label: l}
			field, value, err := event.JSON.Label(&e)
			if err != nil {
				t.Fatal(err)
			}
			back, err := event.DecodeLabels(func(name string) (string, bool) { return value, name == field })
			if err != nil || len(back) != 1 {
				t.Fatalf("read back %q: %v", value, err)
			}
		}
	})
}
