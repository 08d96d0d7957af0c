package backfill

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 4, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, key, value string
		want             time.Duration
	}{
		{"none", "X", "1", 0},
		{"seconds", "Retry-After", "120", 2 * time.Minute},
		{"fraction", "Retry-After", "0.5", 500 * time.Millisecond},
		{"date", "Retry-After", now.Add(90 * time.Second).Format(http.TimeFormat), 90 * time.Second},
		{"past date", "Retry-After", now.Add(-time.Hour).Format(http.TimeFormat), 0},
		{"negative", "Retry-After", "-5", 0},
		{"absurd", "Retry-After", "99999999999999999999", time.Hour},
		{"nan", "Retry-After", "NaN", 0},
		{"rubbish", "Retry-After", "soon", 0},
		{"reset epoch", "RateLimit-Reset", fmt.Sprint(now.Add(42 * time.Second).Unix()), 42 * time.Second},
		{"reset delta", "RateLimit-Reset", "42", 42 * time.Second},
		{"reset past", "RateLimit-Reset", fmt.Sprint(now.Unix() - 9), 0},
		{"reset rubbish", "RateLimit-Reset", "x", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := http.Header{}
			h.Set(c.key, c.value)
			require.Equal(t, c.want, retryAfter(h, now))
		})
	}
}

func TestExhausted(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_780_000_000, 0)
	for _, c := range []struct {
		left, reset string
		want        time.Duration
	}{
		{"", "60", 0}, {"100", "60", 0}, {"0", "60", time.Minute}, {"5", "60", time.Minute}, {"6", "60", 0}, {"x", "60", 0}, {"0", "", 0},
	} {
		h := http.Header{}
		h.Set("RateLimit-Remaining", c.left)
		h.Set("RateLimit-Reset", c.reset)
		require.Equal(t, c.want, exhausted(h, 5, now), "%+v", c)
	}
}
