package backfill

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxPark bounds how long a host can ask to be left alone.
const maxPark = time.Hour

// epochFloor separates a RateLimit-Reset in Unix seconds (as PDSes write it)
// from one in seconds from now (as the IETF draft has it).
const epochFloor = 1_000_000_000

// retryAfter is the wait that a refusal asks for: Retry-After in seconds or as
// a date, else the reset of the rate limit, else 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if v := strings.TrimSpace(h.Get("Retry-After")); v != "" {
		if secs, err := strconv.ParseFloat(v, 64); err == nil {
			return boundPark(seconds(secs))
		}
		if at, err := http.ParseTime(v); err == nil {
			return boundPark(at.Sub(now))
		}
	}
	return resetIn(h, now)
}

// exhausted is the wait that an answered request announces: until the reset
// when no more than reserve requests are left, else 0.
func exhausted(h http.Header, reserve int, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("RateLimit-Remaining"))
	left, err := strconv.Atoi(v)
	if v == "" || err != nil || left > reserve {
		return 0
	}
	return resetIn(h, now)
}

func resetIn(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("RateLimit-Reset"))
	if v == "" {
		return 0
	}
	reset, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return 0
	}
	if reset > epochFloor {
		return boundPark(time.Unix(int64(reset), 0).Sub(now))
	}
	return boundPark(seconds(reset))
}

// seconds converts without overflow; NaN and negative values become 0.
func seconds(s float64) time.Duration {
	if !(s > 0) {
		return 0
	}
	if s > maxPark.Seconds() {
		return maxPark
	}
	return time.Duration(s * float64(time.Second))
}

func boundPark(d time.Duration) time.Duration { return min(max(d, 0), maxPark) }
