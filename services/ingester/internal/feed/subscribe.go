package feed

import (
	"context"
	"errors"
)

// Subscription says how the stream of one host is followed.
type Subscription struct {
	Host Host
	// Method is the XRPC method, such as com.atproto.sync.subscribeRepos.
	Method string
	// Cursor is asked before each connection for what to ask the host for:
	// everything after seq, or what comes next if ok is false.
	Cursor func() (seq int64, ok bool)
	// Frame takes each message in order and owns it. It may block; the socket
	// is not read meanwhile. Its error ends the connection.
	Frame func(ctx context.Context, raw []byte) error
	// Oversize takes the beginning of a message that is larger than the protocol
	// allows, in its place among the others; else as Frame.
	Oversize func(ctx context.Context, beginning []byte) error
	// Idle, if set, is called from the goroutine of Frame when the socket has
	// nothing more to give at the moment.
	Idle func()
	// State, if set, is told of each connection made and lost.
	State func(up bool)
}

// Subscribe follows a stream, connecting again for as long as it takes, until
// ctx ends; then it returns nil.
type Subscribe func(ctx context.Context, s Subscription) error

// ErrEnded is the error of Frame after an error frame: the host closes.
var ErrEnded = errors.New("the host ended the stream")
