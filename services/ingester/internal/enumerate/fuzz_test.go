package enumerate

import (
	"bytes"
	"io"
	"net/http"
	"testing"

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
		w := walk{limit: 1000, listing: atproto.Listing{Client: answer{status: http.StatusOK, body: body}, Host: "https://pds.test"}}
		p, err := w.ask(t.Context(), "c1")
		if err != nil {
			return
		}
		if p.Cursor == "c1" || p.Cursor == doneMark || len(p.Cursor) > 2048 {
			t.Fatalf("cursor %q is taken", p.Cursor)
		}
		for _, row := range p.Repos {
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
