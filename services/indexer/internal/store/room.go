package store

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// roomSize is above what a batch of the usual size sends. A connection keeps
// this much room at most, for values and for messages.
const roomSize = 2 << 20

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

// sendAll runs a large batch on a connection that writes it into its buffer.
func sendAll(ctx context.Context, conn *pgxpool.Conn, b *pgx.Batch) error {
	if conn.Conn().Config().DefaultQueryExecMode == pgx.QueryExecModeExec {
		return conn.SendBatch(ctx, b).Close() // pgx keeps a buffer of its own for that
	}
	own := conn.Conn().PgConn().CustomData()
	room, ok := own[messageRoomKey].(messageRoom)
	if !ok {
		room = make(messageRoom, 0, roomSize)
		own[messageRoomKey] = room
	}
	conn.Conn().PgConn().Frontend().Send(room)
	return conn.SendBatch(ctx, b).Close()
}

// Encode implements pgproto3.FrontendMessage: what is to be sent before the
// next message moves over.
func (r messageRoom) Encode(before []byte) ([]byte, error) { return append(r, before...), nil }

// Decode implements pgproto3.FrontendMessage.
func (messageRoom) Decode([]byte) error { return nil }

// Frontend implements pgproto3.FrontendMessage.
func (messageRoom) Frontend() {}
