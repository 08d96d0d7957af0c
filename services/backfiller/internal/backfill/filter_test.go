package backfill

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFilter(t *testing.T) {
	t.Parallel()
	f, err := NewFilter([]string{"app.bsky.*", " chat.bsky.* ", "com.example.one"})
	require.NoError(t, err)
	for collection, want := range map[string]bool{
		"app.bsky.feed.post": true, "chat.bsky.actor.declaration": true, "com.germnetwork.declaration": true,
		"com.example.one": true, "com.example.one.two": false, "app.bskyx.feed.post": false, "app.bsky": false,
		"com.whtwnd.blog.entry": false,
	} {
		require.Equal(t, want, f.Keep(collection), collection)
	}
	all, err := NewFilter([]string{"*"})
	require.NoError(t, err)
	require.True(t, all.Keep("any.thing.at.all"))
	for _, bad := range []string{"", "app.*.feed", "app.bsky*"} {
		_, err := NewFilter([]string{bad})
		require.Error(t, err, bad)
	}
}
