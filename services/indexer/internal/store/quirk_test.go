package store_test

import "testing"

func TestQuirksRaw(t *testing.T) {
	t.Parallel()
	for _, s := range loadAll(t, func(s *scenario) bool { return s.kind == "quirk" }) {
		t.Run(s.name, func(t *testing.T) { inOrder(t, []*scenario{s}, 7) })
	}
}
