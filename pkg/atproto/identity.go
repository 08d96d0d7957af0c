package atproto

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/mr-tron/base58"

	"sluice/pkg/event"
)

// maxDocument bounds a DID document, in bytes.
const maxDocument = 256 << 10

// Identity is what a DID document says that matters here.
type Identity struct {
	DID string
	// Handle is the one that the document names, lower case; it is not verified:
	// ResolveHandle must lead back to DID. Empty if there is none.
	Handle string
	// PDS is the base URL of the account's server, without a slash at the end;
	// empty if there is none.
	PDS string
	// SigningKey is the key of the account as a did:key; empty if there is none.
	SigningKey string
	// Labeler and LabelerKey are those of a labeler: base URL and did:key.
	Labeler    string
	LabelerKey string

	key, labelerKey atcrypto.PublicKey
}

// PublicKey is the parsed SigningKey. Not to have one is a Permanent error.
func (i *Identity) PublicKey() (atcrypto.PublicKey, error) {
	if i.key == nil && i.SigningKey != "" { // of an export, which is not parsed further
		_, i.key = storedKey(i.SigningKey)
	}
	if i.key == nil {
		return nil, event.Dropf(event.ReasonNoIdentity, "%s has no signing key", i.DID)
	}
	return i.key, nil
}

// LabelerPublicKey is the parsed LabelerKey. Not to have one is a Permanent error.
func (i *Identity) LabelerPublicKey() (atcrypto.PublicKey, error) {
	if i.labelerKey == nil {
		return nil, event.Dropf(event.ReasonNoIdentity, "%s has no labeler key", i.DID)
	}
	return i.labelerKey, nil
}

type didDocument struct {
	ID                 string            `json:"id"`
	AlsoKnownAs        []string          `json:"alsoKnownAs"`
	VerificationMethod []json.RawMessage `json:"verificationMethod"`
	Service            []json.RawMessage `json:"service"`
}

type verificationMethod struct {
	ID                 string `json:"id"`
	Type               string `json:"type"`
	Controller         string `json:"controller"`
	PublicKeyMultibase string `json:"publicKeyMultibase"`
}

type didService struct {
	ID       string          `json:"id"`
	Type     string          `json:"type"`
	Endpoint json.RawMessage `json:"serviceEndpoint"`
}

// ParseDocument reads the DID document of did. Entries that it does not
// understand are passed over: other uses of the document are none of its
// business.
func ParseDocument(did string, doc []byte) (Identity, error) {
	if len(doc) > maxDocument {
		return Identity{}, event.Dropf(event.ReasonNoIdentity, "document of %s: %d bytes", did, len(doc))
	}
	var d didDocument
	if err := json.Unmarshal(doc, &d); err != nil {
		return Identity{}, event.Dropf(event.ReasonNoIdentity, "document of %s: %w", did, err)
	}
	if d.ID != did {
		return Identity{}, event.Dropf(event.ReasonNoIdentity, "document of %s is that of %.80q", did, d.ID)
	}
	id := Identity{DID: did, Handle: documentHandle(d.AlsoKnownAs)}
	for _, raw := range d.VerificationMethod {
		var vm verificationMethod
		if json.Unmarshal(raw, &vm) != nil || vm.Controller != did {
			continue
		}
		switch fragment(did, vm.ID) {
		case "atproto":
			setKey(&id.SigningKey, &id.key, &vm)
		case "atproto_label":
			setKey(&id.LabelerKey, &id.labelerKey, &vm)
		}
	}
	for _, raw := range d.Service {
		var s didService
		if json.Unmarshal(raw, &s) != nil {
			continue
		}
		switch f := fragment(did, s.ID); {
		case f == "atproto_pds" && s.Type == "AtprotoPersonalDataServer":
			setEndpoint(&id.PDS, s.Endpoint)
		case f == "atproto_labeler" && s.Type == "AtprotoLabeler":
			setEndpoint(&id.Labeler, s.Endpoint)
		}
	}
	return id, nil
}

// fragment returns the part after # of an id of this document, which may be
// written with the DID before it or without.
func fragment(did, id string) string {
	before, after, ok := strings.Cut(id, "#")
	if !ok || before != "" && before != did {
		return ""
	}
	return after
}

// documentHandle is the first well-formed handle of alsoKnownAs.
func documentHandle(names []string) string {
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, "at://")
		if !ok {
			continue
		}
		if h, err := syntax.ParseHandle(rest); err == nil {
			return h.Normalize().String()
		}
	}
	return ""
}

// setKey takes the first key of its name that can be read.
func setKey(text *string, to *atcrypto.PublicKey, vm *verificationMethod) {
	if *to != nil {
		return
	}
	if key, err := parseKey(vm.Type, vm.PublicKeyMultibase); err == nil {
		*text, *to = key.DIDKey(), key
	}
}

// parseKey reads a public key in the form that its type says: a multikey names
// its curve, the older types have the bare point.
func parseKey(kind, multibase string) (atcrypto.PublicKey, error) {
	switch kind {
	case "Multikey":
		return atcrypto.ParsePublicMultibase(multibase)
	case "EcdsaSecp256r1VerificationKey2019", "EcdsaSecp256k1VerificationKey2019":
		if len(multibase) > 256 || !strings.HasPrefix(multibase, "z") {
			return nil, fmt.Errorf("key of type %s is not base58", kind)
		}
		raw, err := base58.Decode(multibase[1:])
		if err != nil {
			return nil, fmt.Errorf("key of type %s: %w", kind, err)
		}
		if kind == "EcdsaSecp256r1VerificationKey2019" {
			return atcrypto.ParsePublicUncompressedBytesP256(raw)
		}
		return atcrypto.ParsePublicUncompressedBytesK256(raw)
	}
	return nil, fmt.Errorf("key of type %.40q", kind)
}

// setEndpoint takes the first endpoint of its name that is a plain base URL.
func setEndpoint(to *string, raw json.RawMessage) {
	var s string
	if *to != "" || json.Unmarshal(raw, &s) != nil {
		return
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" {
		return
	}
	*to = strings.TrimRight(u.Scheme+"://"+u.Host+u.Path, "/")
}

// storedIdentity is the form in which an identity is kept by a Cache.
type storedIdentity struct {
	Handle     string `json:"h,omitempty"`
	PDS        string `json:"p,omitempty"`
	SigningKey string `json:"k,omitempty"`
	Labeler    string `json:"l,omitempty"`
	LabelerKey string `json:"lk,omitempty"`
	// Gone says why there is no such DID; empty if there is.
	Gone string `json:"g,omitempty"`
	// At is when this was learned, in Unix seconds.
	At int64 `json:"t"`
	// Operation is the time, in Unix milliseconds, of the operation of an export
	// that this was learned from; 0 when it came from a document.
	Operation int64 `json:"o,omitempty"`
}

func (i *Identity) stored(k known) *storedIdentity {
	return &storedIdentity{
		Handle: i.Handle, PDS: i.PDS, SigningKey: i.SigningKey, Labeler: i.Labeler, LabelerKey: i.LabelerKey,
		Gone: k.gone, At: k.at.Unix(),
	}
}

func (s *storedIdentity) marshal() ([]byte, error) { return json.Marshal(s) }

func (s *storedIdentity) identity(did string) Identity {
	id := Identity{DID: did, Handle: s.Handle, PDS: s.PDS, Labeler: s.Labeler}
	id.SigningKey, id.key = storedKey(s.SigningKey)
	id.LabelerKey, id.labelerKey = storedKey(s.LabelerKey)
	return id
}

func storedKey(didKey string) (string, atcrypto.PublicKey) {
	if didKey == "" {
		return "", nil
	}
	key, err := atcrypto.ParsePublicDIDKey(didKey)
	if err != nil {
		return "", nil
	}
	return didKey, key
}
