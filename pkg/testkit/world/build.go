package world

import (
	"fmt"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/testkit/repo"
)

// historyCommits is how many commits the history of an account is folded into.
const historyCommits = 3

// load builds what no relay announces any more.
func (w *World) load(jobs []*job) error {
	err := each(byAccount(jobs), func(part []int) error {
		for n := range historyCommits {
			chunk := part[len(part)*n/historyCommits : len(part)*(n+1)/historyCommits]
			if len(chunk) == 0 {
				continue
			}
			last := jobs[chunk[len(chunk)-1]]
			var writes []repo.Write
			for _, i := range chunk {
				writes = append(writes, jobs[i].writes...)
				for _, r := range jobs[i].records {
					r.Rev = last.rev
				}
			}
			if err := last.account.Repo.Load(last.rev, writes); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, a := range w.gen.accounts {
		if a.Hostile == "" {
			continue
		}
		rev := syntax.NewTID(w.gen.micros, uint(a.Index%1024)).String()
		if err := a.Repo.Load(rev, nil); err != nil {
			return err
		}
	}
	return nil
}

// build makes the frames of the jobs and appends them.
func (w *World) build(jobs []*job) error {
	built := make([][]byte, len(jobs))
	err := each(byAccount(jobs), func(part []int) error {
		for _, i := range part {
			data, err := jobs[i].build()
			if err != nil {
				return err
			}
			built[i] = data
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, j := range jobs {
		if built[i] == nil {
			continue
		}
		f := Frame{Seq: j.seq, Account: j.account, Kind: j.kind, Data: built[i]}
		if j.kind == Commit {
			at, found := w.last[j.account]
			if found {
				w.frames[at].More = true
			}
			f.Known = found
			w.last[j.account] = len(w.frames)
		}
		w.frames = append(w.frames, f)
	}
	return nil
}

func (j *job) build() ([]byte, error) {
	did := j.account.DID
	switch j.kind {
	case Commit:
		c, err := j.account.Repo.Apply(j.rev, j.writes)
		if err != nil || j.silent {
			return nil, err
		}
		return repo.Frame("#commit", repo.CommitMessage(did, c, j.seq, j.time))
	case Sync:
		if j.rev != "" {
			if _, err := j.account.Repo.Apply(j.rev, nil); err != nil {
				return nil, err
			}
		}
		head := j.account.Repo.Head()
		return repo.Frame("#sync", repo.SyncMessage(did, &head, j.seq, j.time))
	case Identity:
		return repo.Frame("#identity", &comatproto.SyncSubscribeRepos_Identity{
			Did: did, Handle: &j.handle, Seq: j.seq, Time: j.time,
		})
	case AccountNews:
		m := &comatproto.SyncSubscribeRepos_Account{Active: j.active, Did: did, Seq: j.seq, Time: j.time}
		if j.status != "" {
			m.Status = &j.status
		}
		return repo.Frame("#account", m)
	}
	return nil, fmt.Errorf("build frame of kind %d", j.kind)
}
