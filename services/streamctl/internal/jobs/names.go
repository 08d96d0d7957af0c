package jobs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

// Directory resolves DIDs and handles. Errors follow the classes of fault. It
// is safe for concurrent use.
type Directory interface {
	Identity(ctx context.Context, did string) (atproto.Identity, error)
	ResolveHandle(ctx context.Context, handle string) (string, error)
}

const (
	// maxLine bounds a line of a file of names, in bytes.
	maxLine = 4096
	// lookups is how many names are looked up at the same time.
	lookups = 8
	// lookupTries is how often a lookup is tried that does not get an answer.
	lookupTries = 3
)

// DID is the DID that a name stands for. A handle counts only when the document
// of the DID that it leads to names the handle in turn.
func DID(ctx context.Context, dir Directory, name string) (string, error) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "at://"), "@")
	if strings.HasPrefix(name, "did:") {
		did, err := syntax.ParseDID(name)
		if err != nil || did.Method() != "plc" && did.Method() != "web" {
			return "", fault.Permanentf("%.100q is not a DID: want did:plc:NAME or did:web:HOST", name)
		}
		return did.String(), nil
	}
	handle, err := syntax.ParseHandle(name)
	if err != nil {
		return "", fault.Permanentf("%.100q is neither a DID nor a handle", name)
	}
	handle = handle.Normalize()
	var did string
	var id atproto.Identity
	err = try(ctx, func() (err error) {
		if did, err = dir.ResolveHandle(ctx, handle.String()); err != nil {
			return err
		}
		id, err = dir.Identity(ctx, did)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", handle, err)
	}
	if id.Handle != handle.String() {
		return "", fault.Permanentf("handle %s leads to %s, whose document names %s", handle, did, orNone(id.Handle))
	}
	return did, nil
}

func orNone(s string) string {
	if s == "" {
		return "no handle"
	}
	return s
}

// try repeats a step that does not get an answer, a few times.
func try(ctx context.Context, step func() error) error {
	for attempt := 1; ; attempt++ {
		err := step()
		if err == nil || fault.ClassOf(err) != fault.Transient || attempt >= lookupTries {
			return err
		}
		if fault.Sleep(ctx, fault.Backoff{Initial: 500 * time.Millisecond, Max: 5 * time.Second}.Delay(attempt)) != nil {
			return err
		}
	}
}

// BadLine is a line that names no repository.
type BadLine struct {
	Line  int    `json:"line"`
	Text  string `json:"text"`
	Error string `json:"error"`
}

// AddLines adds the repositories that a text names, one DID or handle a line.
// Empty lines and what follows a # are left out. bad is told of each line that
// cannot be used; the others are added.
func (a *Adder) AddLines(ctx context.Context, r io.Reader, dir Directory, bad func(BadLine)) error {
	lines := bufio.NewReaderSize(r, maxLine)
	chunk := make([]line, 0, Chunk)
	flush := func() error {
		repos, err := a.resolve(ctx, dir, chunk, bad)
		if err != nil {
			return err
		}
		chunk = chunk[:0]
		return a.Add(ctx, repos)
	}
	for n := 1; ; n++ {
		text, err := readLine(lines)
		ended := errors.Is(err, io.EOF)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			a.Counts.Bad.Add(1)
			bad(BadLine{n, text[:40] + "…", fmt.Sprintf("longer than %d bytes", maxLine)})
			text = ""
		case err != nil && !ended:
			return fmt.Errorf("read line %d: %w", n, err)
		}
		if text, _, _ = strings.Cut(text, "#"); strings.TrimSpace(text) != "" {
			chunk = append(chunk, line{n, strings.TrimSpace(text)})
		}
		if len(chunk) == Chunk || ended {
			if err := flush(); err != nil || ended {
				return err
			}
		}
	}
}

type line struct {
	n    int
	text string
}

// readLine returns the next line; of one that is too long the beginning, with
// ErrBufferFull, and reads over the rest of it.
func readLine(r *bufio.Reader) (string, error) {
	b, err := r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return string(b), err
	}
	text := string(b[:min(len(b), 200)])
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return text, err
	}
	return text, bufio.ErrBufferFull
}

// resolve looks the names up, several at a time, and keeps their order.
func (a *Adder) resolve(ctx context.Context, dir Directory, lines []line, bad func(BadLine)) ([]Repo, error) {
	dids, errs := make([]string, len(lines)), make([]error, len(lines))
	var g errgroup.Group
	g.SetLimit(lookups)
	for i, l := range lines {
		g.Go(func() error {
			dids[i], errs[i] = DID(ctx, dir, l.text)
			a.Counts.Seen.Add(1)
			return nil
		})
	}
	_ = g.Wait() // errors are those of the lines
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	repos := make([]Repo, 0, len(lines))
	for i, l := range lines {
		if errs[i] != nil {
			a.Counts.Bad.Add(1)
			bad(BadLine{l.n, clip(l.text), errs[i].Error()})
			continue
		}
		repos = append(repos, Repo{DID: dids[i]})
	}
	return repos, nil
}

func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}
