package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/pkg/fault"
)

// Accounts asks the present server of an account whether it is really gone.
// What was said may come from a server that the account has left.
type Accounts struct {
	dir    Directory
	http   *http.Client
	checks *prometheus.CounterVec
}

// NewAccounts makes an Accounts. client must refuse addresses that are not to
// be dialled. A nil reg exports nothing.
func NewAccounts(dir Directory, client *http.Client, reg prometheus.Registerer) *Accounts {
	return &Accounts{dir: dir, http: client, checks: newAccountMetrics(reg)}
}

// StatusDeleted is the status of an account that is gone for good.
const StatusDeleted = "deleted"

// Confirm says whether an account that was said to have the status, and to be
// inactive, is so according to its present server. A server that does not say
// confirms every status but deleted. A Transient error means that it is to be
// asked again.
func (a *Accounts) Confirm(ctx context.Context, did, status string) (bool, error) {
	yes, err := a.confirm(ctx, did, status)
	switch {
	case err != nil:
		a.checks.WithLabelValues(string(unasked)).Inc()
		return false, fmt.Errorf("check account %s: %w", did, err)
	case yes:
		a.checks.WithLabelValues(string(confirmed)).Inc()
	default:
		a.checks.WithLabelValues(string(refuted)).Inc()
	}
	return yes, nil
}

func (a *Accounts) confirm(ctx context.Context, did, status string) (bool, error) {
	id, err := a.dir.Refresh(ctx, did)
	switch {
	case err != nil && fault.ClassOf(err) == fault.Permanent:
		return true, nil // there is no such account any more
	case err != nil:
		return false, err
	case id.PDS == "":
		return true, nil
	case status == StatusDeleted:
		return a.deleted(ctx, id.PDS, did)
	default:
		return a.inactive(ctx, id.PDS, did)
	}
}

// deleted asks for the latest commit: only a server that does not know the
// repository says that it is gone. Any other refusal means that it is there.
func (a *Accounts) deleted(ctx context.Context, pds, did string) (bool, error) {
	status, body, err := a.get(ctx, pds, "com.atproto.sync.getLatestCommit", did)
	if err != nil {
		return false, err
	}
	return status != http.StatusOK && body.Error == "RepoNotFound", nil
}

// inactive asks for the status of the repository. Not every server has one to
// tell; then what was said holds.
func (a *Accounts) inactive(ctx context.Context, pds, did string) (bool, error) {
	status, body, err := a.get(ctx, pds, "com.atproto.sync.getRepoStatus", did)
	if err != nil {
		return false, err
	}
	return status != http.StatusOK || body.DID != did || !body.Active, nil
}

// reply holds the fields of the answers that matter.
type reply struct {
	Error  string `json:"error"`
	DID    string `json:"did"`
	Active bool   `json:"active"`
}

// maxReply bounds an answer, in bytes.
const maxReply = 64 << 10

// get calls a query about a repository. An error means that the server could
// not be reached, is overloaded or broken.
func (a *Accounts) get(ctx context.Context, pds, method, did string) (int, reply, error) {
	var body reply
	target := pds + "/xrpc/" + method + "?" + url.Values{"did": {did}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, body, fault.As(fault.Permanent, err)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return 0, body, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return 0, body, err
	}
	if notNow(resp.StatusCode) {
		return 0, body, fmt.Errorf("%s: status %d", method, resp.StatusCode)
	}
	if err := json.Unmarshal(text, &body); err != nil {
		body = reply{}
		if resp.StatusCode == http.StatusOK {
			return 0, body, errors.New(method + ": answer is not JSON")
		}
	}
	return resp.StatusCode, body, nil
}

// notNow says whether the same question may be answered later.
func notNow(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusRequestTimeout ||
		status >= http.StatusInternalServerError && status != http.StatusNotImplemented
}
