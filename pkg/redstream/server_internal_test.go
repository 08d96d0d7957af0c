package redstream

import (
	"testing"

	"sluice/pkg/testkit"
)

// Options are found by their token in what the server documents: those of 7.0
// are there, and one that no server has is not.
func TestOptionsAreFoundByToken(t *testing.T) {
	t.Parallel()
	url, _ := testkit.Redis(t)
	rc, err := testkit.RedisClient(url)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	docs := rc.Do(t.Context(), rc.B().CommandDocs().CommandName("XTRIM", "XREADGROUP").Build())
	have := options(docs, "XTRIM MINID", "XREADGROUP NOACK", "XTRIM NOSUCHTOKEN", "NOSUCHCOMMAND MINID")
	if len(have) != 2 || have[0] != "XTRIM MINID" || have[1] != "XREADGROUP NOACK" {
		t.Fatalf("found %q, want MINID and NOACK alone", have)
	}
}
