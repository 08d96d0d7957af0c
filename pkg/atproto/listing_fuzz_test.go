package atproto_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice/pkg/atproto"
)

// answer is a host that always gives the same answer.
type answer []byte

func (a answer) Do(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(a))}, nil
}

// A page of hosts, whatever a relay sends: each can be asked.
func FuzzListHosts(f *testing.F) {
	f.Add([]byte(`{"cursor":"2","hosts":[{"hostname":"pds.test","seq":1,"status":"active","accountCount":12},{"hostname":"PDS.test:8080"}]}`))
	f.Add([]byte(`{"hosts":[{"hostname":"user@pds.test"},{"hostname":"pds.test/x"},{"hostname":"pds.test?x"},{"hostname":"[::1]:2"},{"hostname":""}]}`))
	f.Add([]byte(`{"hosts":[{"hostname":"a.test","accountCount":-5},{"hostname":"b.test","accountCount":1e30}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		l := atproto.Listing{Client: answer(body), Host: "https://relay.test"}
		p, err := l.Hosts(t.Context(), "", 1000)
		if err != nil {
			return
		}
		for _, h := range p.Hosts {
			if h.Accounts < 0 || strings.ContainsAny(h.Name, "/?#@ ") {
				t.Fatalf("host %+v is taken", h)
			}
			if _, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+h.Name+"/xrpc/x", http.NoBody); err != nil {
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
