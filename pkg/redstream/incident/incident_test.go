package incident_test

import (
	"bytes"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/pkg/redstream/incident"
	"sluice/pkg/testkit"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("sluice/pkg/testkit.startPinned.func1"))
}

// TestIncident: with the report's rules entries are lost and consumers get
// nothing; with ours every criterion of the report holds.
func TestIncident(t *testing.T) {
	t.Parallel()
	url, prefix := testkit.Redis(t)
	var out bytes.Buffer
	r, err := incident.Run(t.Context(), url, &out, incident.Options{Entries: 2000, Quiet: 1200 * time.Millisecond, KeyPrefix: prefix})
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if o := r.Ours.After; o.In != 4000 || o.Indexed != 4000 || o.Lost != 0 || o.Length != 0 {
		t.Fatalf("%+v", o)
	}
	if o := r.Report.Before; o.Idle == 0 || o.Stuck == 0 || o.Waiting == 0 {
		t.Fatalf("the incident did not happen: %+v", o)
	}
	if o := r.Report.After; o.Lost == 0 {
		t.Fatalf("the report's rules lost nothing: %+v", o)
	}
}
