package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// quiet is how long a server may send nothing.
const quiet = time.Minute

// Fetch asks a PDS for a repository. The body ends with an error when nothing
// comes for a minute.
func Fetch(ctx context.Context, client *http.Client, pds, did string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(quiet, func() { cancel(fmt.Errorf("%s sent nothing for %s", pds, quiet)) })
	address := strings.TrimSuffix(pds, "/") + "/xrpc/com.atproto.sync.getRepo?did=" + url.QueryEscape(did)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		cancel(err)
		return nil, fmt.Errorf("pds %q: %w", pds, err)
	}
	req.Header.Set("Accept", "application/vnd.ipld.car")
	// What is not compressed cannot be a decompression bomb.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := client.Do(req) //nolint:bodyclose // body.Close closes it
	if err != nil {
		timer.Stop()
		cancel(err)
		return nil, fmt.Errorf("ask for the repository: %w", err)
	}
	b := &body{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timer: timer}
	if resp.StatusCode != http.StatusOK {
		defer b.Close()
		return nil, fmt.Errorf("%s does not give the repository: %s", pds, answer(resp))
	}
	return b, nil
}

// answer is what an answer says that is not a repository.
func answer(resp *http.Response) string {
	var x struct {
		Error   string `json:"error"`
		Message string `json:"message"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	if err != nil || json.Unmarshal(text, &x) != nil || x.Error == "" {
		return resp.Status
	}
	return fmt.Sprintf("%.100s: %.200s (%d)", x.Error, x.Message, resp.StatusCode)
}

// body is a repository on its way.
type body struct {
	io.ReadCloser

	ctx    context.Context //nolint:containedctx // that of the request, for the cause of its end
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// Read reads, and says why when the request was ended.
func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(quiet)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close ends the request.
func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(context.Canceled)
	return b.ReadCloser.Close()
}
