package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice/pkg/fault"
)

const (
	// waitStep is the pause between two looks, waitMost the longest answer.
	waitStep = 25 * time.Millisecond
	waitMost = 10 * time.Minute
)

// serveWait answers when everything up to the given entries is in the tables:
// applied by every group of the stream, counted, judged again, its snapshots
// swept and its handles looked up. The query names streams and ids
// (?firehose_live=1700000000000-0); timeout=30s bounds the wait, after which
// the answer is 504 and says what is missing.
func (a *App) serveWait(w http.ResponseWriter, r *http.Request) {
	limit := waitMost
	wants := map[string]string{}
	for name, values := range r.URL.Query() {
		if name == "timeout" {
			d, err := time.ParseDuration(values[0])
			if err != nil || d <= 0 {
				reply(w, http.StatusBadRequest, "timeout "+strconv.Quote(values[0])+" is not a duration")
				return
			}
			limit = min(d, waitMost)
			continue
		}
		if _, ok := a.groups()[name]; !ok {
			reply(w, http.StatusBadRequest, "this indexer reads no stream "+strconv.Quote(name))
			return
		}
		if _, _, err := parseID(values[0]); err != nil {
			reply(w, http.StatusBadRequest, err.Error())
			return
		}
		wants[name] = values[0]
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	missing, err := a.wait(ctx, wants)
	switch {
	case err == nil:
		reply(w, http.StatusOK, "")
	case ctx.Err() != nil:
		reply(w, http.StatusGatewayTimeout, missing)
	default:
		reply(w, http.StatusServiceUnavailable, err.Error())
	}
}

func reply(w http.ResponseWriter, status int, missing string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"done": status == http.StatusOK, "missing": missing})
}

// wait returns nil when all is in; missing says what was not at the last look.
func (a *App) wait(ctx context.Context, wants map[string]string) (missing string, err error) {
	for {
		missing, err = a.missing(ctx, wants)
		if err == nil && missing == "" {
			return "", nil
		}
		if err != nil && fault.ClassOf(err) == fault.Fatal {
			return missing, err
		}
		if err := fault.Sleep(ctx, waitStep); err != nil {
			return missing, err
		}
	}
}

// missing names the first thing that is not done.
func (a *App) missing(ctx context.Context, wants map[string]string) (string, error) {
	for stream, id := range wants {
		floor, holder, err := a.redis.Floor(ctx, stream)
		if err != nil {
			return "", err
		}
		passed, err := above(floor, id)
		if err != nil {
			return "", err
		}
		if !passed {
			return fmt.Sprintf("%s: the floor is %s, held by %s", stream, floor, holder), nil
		}
	}
	pending, err := a.store.Pending(ctx)
	if err != nil {
		return "", err
	}
	for _, left := range []struct {
		what string
		is   bool
	}{{"counts to fold", pending.Deltas}, {"posts to judge again", pending.Rechecks}, {"handles to look up", pending.Handles}} {
		if left.is {
			return left.what, nil
		}
	}
	for stream := range wants {
		_, waiting, err := a.store.DueSweeps(ctx, stream, "", 0)
		if err != nil {
			return "", err
		}
		if waiting > 0 {
			return fmt.Sprintf("%d snapshots of %s to sweep", waiting, stream), nil
		}
	}
	return "", nil
}

// above says whether the id floor is higher than id.
func above(floor, id string) (bool, error) {
	if floor == "" {
		return false, nil
	}
	fms, fseq, err := parseID(floor)
	if err != nil {
		return false, err
	}
	ms, seq, err := parseID(id)
	if err != nil {
		return false, err
	}
	return fms > ms || fms == ms && fseq > seq, nil
}

// parseID reads the id of an entry; without a second part that is 0.
func parseID(id string) (ms, seq uint64, err error) {
	left, right, found := strings.Cut(id, "-")
	if ms, err = strconv.ParseUint(left, 10, 64); err == nil && found {
		seq, err = strconv.ParseUint(right, 10, 64)
	}
	if err != nil {
		return 0, 0, errors.New(strconv.Quote(id) + " is not the id of an entry")
	}
	return ms, seq, nil
}
