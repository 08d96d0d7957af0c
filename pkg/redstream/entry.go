package redstream

import (
	"errors"
	"fmt"

	"github.com/redis/rueidis"
)

// Field is one field of an entry.
type Field struct{ Name, Value string }

// Entry is one stream entry. Stream is the name without the key prefix.
type Entry struct {
	Stream string
	ID     string
	Fields []Field
}

// Get returns the value of the first field with that name.
func (e Entry) Get(name string) (string, bool) {
	for _, f := range e.Fields {
		if f.Name == name {
			return f.Value, true
		}
	}
	return "", false
}

// Item is one entry to append. All items of one Seq are in one append.
type Item struct {
	Seq    int64
	Fields []Field
}

// Delivery is an entry handed to this consumer.
type Delivery struct {
	Entry
	// Deliveries counts how often the entry was handed out, this time included.
	Deliveries int64
	// Claimed says that it came from another consumer, or from an earlier life
	// of this one.
	Claimed bool

	owner *Consumer // whose window it counts against; nil outside a consumer
}

// entryOf converts one entry of a reply. ok is false for a phantom: an id that
// is pending although the entry was deleted.
func entryOf(stream string, x rueidis.XRangeSlice) (e Entry, ok bool) {
	if x.FieldValues == nil {
		return Entry{Stream: stream, ID: x.ID}, false
	}
	fields := make([]Field, len(x.FieldValues))
	for i, f := range x.FieldValues {
		fields[i] = Field{Name: f.Field, Value: f.Value}
	}
	return Entry{Stream: stream, ID: x.ID, Fields: fields}, true
}

// entriesOf returns the entries of one stream in the reply of XREADGROUP: a
// map in RESP3, a list of pairs in RESP2.
func entriesOf(reply rueidis.RedisMessage, key string) ([]rueidis.RedisMessage, error) {
	if reply.IsMap() {
		streams, err := reply.AsMap()
		if err != nil {
			return nil, err
		}
		m, ok := streams[key]
		if !ok {
			return nil, nil
		}
		return m.ToArray()
	}
	streams, err := reply.ToArray()
	if err != nil {
		return nil, err
	}
	for i := range streams {
		pair, err := streams[i].ToArray()
		if err != nil || len(pair) != 2 {
			return nil, fmt.Errorf("stream of %d values: %w", len(pair), err)
		}
		if name, err := pair[0].ToString(); err != nil || name != key {
			continue
		}
		return pair[1].ToArray()
	}
	return nil, nil
}

// deliveriesOf reads entries of a reply into deliveries whose fields share one
// block of memory. phantoms are ids without an entry.
func deliveriesOf(stream string, owner *Consumer, list []rueidis.RedisMessage) (ds []Delivery, phantoms []string, err error) {
	ds = make([]Delivery, 0, len(list))
	block := make([]Field, 0, len(list))
	for i := range list {
		cells, err := list[i].ToArray()
		if err != nil || len(cells) != 2 {
			return nil, nil, fmt.Errorf("entry of %d values: %w", len(cells), err)
		}
		id, err := cells[0].ToString()
		if err != nil {
			return nil, nil, fmt.Errorf("id of an entry: %w", err)
		}
		values, err := cells[1].ToArray()
		if rueidis.IsRedisNil(err) {
			phantoms = append(phantoms, id)
			continue
		}
		if err != nil || len(values)%2 != 0 {
			return nil, nil, fmt.Errorf("entry %s: %d values: %w", id, len(values), err)
		}
		from := len(block)
		for j := 0; j < len(values); j += 2 {
			name, err1 := values[j].ToString()
			value, err2 := values[j+1].ToString()
			if err := errors.Join(err1, err2); err != nil {
				return nil, nil, fmt.Errorf("entry %s: %w", id, err)
			}
			block = append(block, Field{Name: name, Value: value})
		}
		fields := block[from:len(block):len(block)]
		ds = append(ds, Delivery{Entry: Entry{Stream: stream, ID: id, Fields: fields}, Deliveries: 1, owner: owner})
	}
	return ds, phantoms, nil
}
