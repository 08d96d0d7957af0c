package world

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"sluice/pkg/testkit/repo"
)

// Account is an account of the world. What changes during generation is read
// through World.
type Account struct {
	Index int
	DID   string
	Repo  *repo.Repo
	Key   *repo.Key
	// LabelKey is the key of a labeler's labels; nil otherwise.
	LabelKey *repo.Key
	// Hostile is the trap that this account is, or empty.
	Hostile string

	state State
	plan  planState
}

// State is what a directory and a host tell of an account.
type State struct {
	Handle string
	// Resolves says whether the handle leads back to the account.
	Resolves bool
	// PDS is the index of the server that has the account, OldPDS of those that
	// it left.
	PDS    int
	OldPDS []int
	// Status is empty (active) or deactivated, suspended, takendown, deleted.
	Status string
	// Tombstoned: the directory has no document any more.
	Tombstoned bool
	// Born says that the account was created live, Quiet that it does nothing
	// live.
	Born, Quiet bool
	// Seq is the last sequence number at which something of the account was
	// announced.
	Seq int64
}

// Active says whether the account's host serves it.
func (s State) Active() bool { return s.Status == "" }

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func newAccount(o Options, index int) (*Account, error) {
	seed := fmt.Sprintf("%d/%d", o.Seed, index)
	sum := sha256.Sum256([]byte("did " + seed))
	curve := repo.K256
	if index%3 == 2 {
		curve = repo.P256
	}
	key, err := repo.NewKey(curve, seed)
	if err != nil {
		return nil, err
	}
	a := &Account{Index: index, DID: "did:plc:" + base32Lower.EncodeToString(sum[:15]), Key: key}
	a.Repo = repo.New(a.DID, key)
	a.state = State{Handle: fmt.Sprintf("%s%d.test", words[index%len(words)], index), Resolves: index%31 != 17, PDS: index % o.PDS}
	a.plan = newPlanState()
	if a.isLabeler() {
		if a.LabelKey, err = repo.NewKey(repo.K256, "label "+seed); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// isLabeler: a few of the first accounts, but not the very first, are labelers.
func (a *Account) isLabeler() bool { return a.Index == 3 || a.Index == 5 }

// Document returns the DID document. pds and labeler are the addresses of
// account's server and of the labeler.
func (a *Account) Document(s State, pds, labeler string) map[string]any {
	methods := []any{method(a.DID, "#atproto", a.Key)}
	services := []any{map[string]any{
		"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": pds,
	}}
	if a.LabelKey != nil {
		methods = append(methods, method(a.DID, "#atproto_label", a.LabelKey))
		services = append(services, map[string]any{
			"id": "#atproto_labeler", "type": "AtprotoLabeler", "serviceEndpoint": labeler,
		})
	}
	return map[string]any{
		"@context": []any{
			"https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1",
			"https://w3id.org/security/suites/secp256k1-2019/v1",
		},
		"id":                 a.DID,
		"alsoKnownAs":        []any{"at://" + s.Handle},
		"verificationMethod": methods,
		"service":            services,
	}
}

func method(did, id string, key *repo.Key) map[string]any {
	return map[string]any{
		"id": did + id, "type": "Multikey", "controller": did, "publicKeyMultibase": key.Multibase(),
	}
}

// hostOf returns the DID of an at-uri.
func hostOf(uri string) string {
	did, _, _ := strings.Cut(strings.TrimPrefix(uri, "at://"), "/")
	return did
}

// swapCollection returns uri with another collection and the same key.
func swapCollection(uri, collection string) string {
	parts := strings.Split(uri, "/")
	if len(parts) != 5 {
		return ""
	}
	parts[3] = collection
	return strings.Join(parts, "/")
}
