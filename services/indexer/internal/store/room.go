package store

import (
	"slices"

	"github.com/jackc/pgx/v5"
)

// roomSize is above what a batch of the usual size sends. A connection keeps
// this much room at most.
const roomSize = 1 << 20

// valueRoom is the buffer of a connection that the values of a statement are
// encoded into. The connection copies them before it encodes the next statement;
// pgx alone would grow a buffer for each statement and drop it.
type valueRoom []byte

// grow makes room for more bytes behind buf. The first value of a statement
// finds the buffer empty.
func (r *valueRoom) grow(buf []byte, size int) []byte {
	if len(buf) == 0 {
		buf = *r
	}
	buf = slices.Grow(buf, size)
	if cap(buf) > cap(*r) && cap(buf) <= roomSize {
		*r = buf[:0]
	}
	return buf
}

// messageRoom is the buffer of a connection that the messages of a batch are
// written into, all of them before the first is sent. It is itself a message,
// of no bytes: pgx has the next ones follow in it, and would else grow a buffer
// for each batch and drop it.
type messageRoom []byte

// messageRoomKey is where a connection keeps its buffer.
const messageRoomKey = "sluice/store.messageRoom"

// useMessageRoom has a connection write its next messages into its buffer.
func useMessageRoom(conn *pgx.Conn) {
	own := conn.PgConn().CustomData()
	room, ok := own[messageRoomKey].(messageRoom)
	if !ok {
		room = make(messageRoom, 0, roomSize)
		own[messageRoomKey] = room
	}
	conn.PgConn().Frontend().Send(room)
}

// Encode implements pgproto3.FrontendMessage: what is to be sent before the
// next message moves over.
func (r messageRoom) Encode(before []byte) ([]byte, error) { return append(r, before...), nil }

// Decode implements pgproto3.FrontendMessage.
func (messageRoom) Decode([]byte) error { return nil }

// Frontend implements pgproto3.FrontendMessage.
func (messageRoom) Frontend() {}
