// Package dagcbor reads DAG-CBOR strictly: canonical form only, bounded depth
// and sizes, and turns it into the JSON form of the AT Protocol data model and
// back without a detour through Go values.
//
// Source: https://ipld.io/specs/codecs/dag-cbor/spec/ and
// https://atproto.com/specs/data-model.
package dagcbor
