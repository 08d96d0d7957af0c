package redstream

import "github.com/redis/rueidis"

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
