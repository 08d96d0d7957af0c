// Package atproto reads what the AT Protocol network sends: frames of event
// streams, commits and repositories, labels, and identities. Everything is
// taken as hostile: sizes and depths are bounded, each block is hashed, and
// what cannot be used is an event.DropError with a reason.
//
// It holds no state beyond caches, and knows no stream and no database.
package atproto
