package simnet

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"

	"sluice/pkg/testkit/repo"
	"sluice/pkg/testkit/world"
)

const (
	// deepNodes is the depth of a tree that no key could need.
	deepNodes = 100_000
	// deepArrays is the nesting of a record that ends the stack of a careless
	// reader.
	deepArrays = 200_000
	// bombBytes is the size of a bomb when it has gone off.
	bombBytes = 8 << 30
)

// hostile serves the repository of an account that is a trap.
func (n *Network) hostile(w http.ResponseWriter, r *http.Request, a *world.Account) {
	n.Faults.count("hostile_" + a.Hostile)
	rev := a.Repo.Head().Rev
	w.Header().Set("Content-Type", "application/vnd.ipld.car")
	switch a.Hostile {
	case "endless":
		n.endless(w, a)
	case "redirect_loop":
		hop, _ := strconv.Atoi(r.URL.Query().Get("hop"))
		q := r.URL.Query()
		q.Set("hop", strconv.Itoa(hop+1))
		http.Redirect(w, r, r.URL.Path+"?"+q.Encode(), http.StatusFound)
	case "deep_mst":
		deepTree(w, a, rev)
	case "cyclic_mst":
		cyclicTree(w, a, rev)
	case "gzip_bomb":
		n.bomb(w)
	case "duplicate_keys":
		record := twiceKeyed(repo.MustEncode(repo.Map{"$type": world.Post, "text": "twice", "createdAt": "2025-01-01T00:00:00Z"}))
		_ = one(a, rev, record).Write(w)
	case "deep_record":
		_ = one(a, rev, deepRecord()).Write(w)
	case "tiny_records":
		record := repo.MustEncode(repo.Map{"$type": "com.example.tiny"})
		_ = repo.Bulk{DID: a.DID, Rev: rev, Key: a.Key, N: n.opts.HostileRecords, Record: func(i int) (string, []byte) {
			return fmt.Sprintf("com.example.tiny/%09d", i), record
		}}.Write(w)
	case "giant":
		_ = n.giant(a, rev).Write(w)
	default:
		n.flawed(w, a, rev)
	}
}

// giant is a repository of many different posts.
func (n *Network) giant(a *world.Account, rev string) repo.Bulk {
	return repo.Bulk{DID: a.DID, Rev: rev, Key: a.Key, N: n.opts.HostileRecords, Record: func(i int) (string, []byte) {
		key := syntax.NewTID(1_700_000_000_000_000+int64(i)*1_000_000, 1).String()
		return world.Post + "/" + key, repo.MustEncode(repo.Map{
			"$type": world.Post, "text": fmt.Sprintf("post number %d", i), "createdAt": "2025-01-01T00:00:00Z",
		})
	}}
}

func one(a *world.Account, rev string, record []byte) repo.Bulk {
	return repo.Bulk{DID: a.DID, Rev: rev, Key: a.Key, N: 1, Record: func(int) (string, []byte) {
		return world.Post + "/3aaaaaaaaaa2a", record
	}}
}

// flawed serves a small repository with the fault that the kind is named after.
func (n *Network) flawed(w http.ResponseWriter, a *world.Account, rev string) {
	var car bytes.Buffer
	err := repo.Bulk{DID: a.DID, Rev: rev, Key: a.Key, N: 40, Record: func(i int) (string, []byte) {
		return fmt.Sprintf("%s/3aaaaaaaaa%02d2", world.Post, i), repo.MustEncode(repo.Map{
			"$type": world.Post, "text": fmt.Sprintf("post %d", i), "createdAt": "2025-01-01T00:00:00Z",
		})
	}}.Write(&car)
	if err != nil {
		xrpcError(w, http.StatusInternalServerError, "InternalServerError", err.Error())
		return
	}
	spoiled, _, err := spoilCAR(a.Hostile, a, car.Bytes())
	if err != nil {
		xrpcError(w, http.StatusInternalServerError, "InternalServerError", err.Error())
		return
	}
	_, _ = w.Write(spoiled)
}

// endless sends good blocks for as long as they are taken.
func (n *Network) endless(w http.ResponseWriter, a *world.Account) {
	out := repo.AppendCARHeader(nil, a.Repo.Head().CID)
	data := make([]byte, 8<<10)
	for i := uint64(0); ; i++ {
		binary.LittleEndian.PutUint64(data, i)
		out = repo.AppendCARBlock(out, repo.RawCID(data), data)
		if len(out) < 256<<10 {
			continue
		}
		if _, err := w.Write(out); err != nil {
			return
		}
		out = out[:0]
		select {
		case <-n.done:
			return
		default:
		}
	}
}

// bomb sends zeros that are small on the way.
func (n *Network) bomb(w http.ResponseWriter) {
	w.Header().Set("Content-Encoding", "gzip")
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return
	}
	zeros := make([]byte, 1<<20)
	for range bombBytes / len(zeros) {
		if _, err := z.Write(zeros); err != nil {
			return
		}
		select {
		case <-n.done:
			return
		default:
		}
	}
	_ = z.Close()
}

func signedCommit(a *world.Account, rev string, data cid.Cid) (cid.Cid, []byte) {
	block, err := repo.SignCommit(a.DID, rev, data, a.Key)
	if err != nil {
		return cid.Undef, nil
	}
	return repo.CID(block), block
}

func deepTree(w http.ResponseWriter, a *world.Account, rev string) {
	blocks := make([]repo.Block, 0, deepNodes)
	data := repo.MustEncode(repo.Map{"l": nil, "e": []any{}})
	for range deepNodes {
		id := repo.CID(data)
		blocks = append(blocks, repo.Block{CID: id, Data: data})
		data = repo.MustEncode(repo.Map{"l": id, "e": []any{}})
	}
	top := blocks[len(blocks)-1].CID
	root, commit := signedCommit(a, rev, top)
	out := repo.AppendCARBlock(repo.AppendCARHeader(nil, root), root, commit)
	for _, block := range slices.Backward(blocks) {
		out = repo.AppendCARBlock(out, block.CID, block.Data)
	}
	_, _ = w.Write(out)
}

// cyclicTree sends a node that is its own subtree. Its CID can only be a lie.
func cyclicTree(w http.ResponseWriter, a *world.Account, rev string) {
	self := repo.CID([]byte("a node that contains itself"))
	node := repo.MustEncode(repo.Map{"l": self, "e": []any{}})
	root, commit := signedCommit(a, rev, self)
	_, _ = w.Write(repo.CAR(root, []repo.Block{{CID: root, Data: commit}, {CID: self, Data: node}}))
}

// deepRecord is a map with arrays in arrays.
func deepRecord() []byte {
	head := repo.MustEncode(repo.Map{"a": []any{}})
	out := bytes.Clone(head[:len(head)-1])
	for range deepArrays {
		out = append(out, 0x81)
	}
	return append(out, 0x80)
}
