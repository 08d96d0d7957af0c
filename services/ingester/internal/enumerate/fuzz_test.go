package enumerate

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
)

// answer is a host that always gives the same answer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) Do(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body))}, nil
}

// A page of repositories, whatever a host sends: what is taken of it can be
// written as jobs, the cursor moves and is bounded, and no row is lost without
// being counted.
func FuzzListRepos(f *testing.F) {
	f.Add([]byte(`{"cursor":"c2","repos":[{"did":"did:plc:ewvi7nxzyoun6zhxrhs64oiz","head":"bafyrei","rev":"3lqk4bk4ikg24","active":true}]}`))
	f.Add([]byte(`{"repos":[{"did":"did:web:a.test","rev":5,"active":"no","status":["x"]},{"did":"x"},null,7,[]]}`))
	f.Add([]byte(`{"cursor":"` + doneMark + `","repos":null}`))
	f.Add([]byte(`{"cursor":"c1","repos":[]}`))
	f.Add([]byte(`{"repos":[{"did":"did:plc:a","did":"did:plc:b","active":null,"status":"Deactivated"}]}`))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		l := lister{http: answer{status: http.StatusOK, body: body}, base: "https://pds.test"}
		p, err := l.repos(t.Context(), "c1", 1000)
		if err != nil {
			return
		}
		if p.cursor == "c1" || p.cursor == doneMark || len(p.cursor) > maxCursor {
			t.Fatalf("cursor %q is taken", p.cursor)
		}
		for _, row := range p.rows {
			job := event.RepoJob{DID: row.DID, Host: "pds.test", Rev: row.Rev, Status: row.Status, Active: row.Active, Reason: event.ReasonEnumerate}
			field, value, err := event.JSON.Job(&job)
			if err != nil {
				t.Fatalf("row %+v is no job: %v", row, err)
			}
			back, err := event.DecodeJob(func(name string) (string, bool) { return value, name == field })
			if err != nil || back.DID != row.DID || back.Rev != row.Rev {
				t.Fatalf("row %+v is read back as %+v: %v", row, back, err)
			}
		}
	})
}

func FuzzListHosts(f *testing.F) {
	f.Add([]byte(`{"cursor":"2","hosts":[{"hostname":"pds.test","seq":1,"status":"active","accountCount":12},{"hostname":"PDS.test:8080"}]}`))
	f.Add([]byte(`{"hosts":[{"hostname":"user@pds.test"},{"hostname":"pds.test/x"},{"hostname":"pds.test?x"},{"hostname":"[::1]:2"},{"hostname":""}]}`))
	f.Add([]byte(`{"hosts":[{"hostname":"a.test","accountCount":-5},{"hostname":"b.test","accountCount":1e30}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		l := lister{http: answer{status: http.StatusOK, body: body}, base: "https://relay.test"}
		p, err := l.hosts(t.Context(), "", 1000)
		if err != nil {
			return
		}
		for _, h := range p.hosts {
			if h.accounts < 0 || strings.ContainsAny(h.name, "/?#@ ") {
				t.Fatalf("host %+v is taken", h)
			}
			if _, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+h.name+"/xrpc/x", http.NoBody); err != nil {
				t.Fatalf("host %+v cannot be asked: %v", h, err)
			}
		}
	})
}

// What a host says about waiting is bounded.
func FuzzRetryAfter(f *testing.F) {
	f.Add("5", "")
	f.Add("Wed, 21 Oct 2015 07:28:00 GMT", "")
	f.Add("", "1750000000")
	f.Add("-1", "99999999999999999999")
	f.Add("9223372036854775807", "9223372036854775807")
	f.Fuzz(func(t *testing.T, after, reset string) {
		h := http.Header{"Retry-After": {after}, "Ratelimit-Reset": {reset}}
		if d := atproto.AskedWait(h, time.Now()); d < 0 || d > 15*time.Minute {
			t.Fatalf("wait of %s", d)
		}
	})
}
