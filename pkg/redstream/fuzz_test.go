package redstream

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// FuzzDeadLetter: whatever an entry holds, parking and reading it back gives
// the same fields, and no entry of anybody makes reading fail.
func FuzzDeadLetter(f *testing.F) {
	f.Add("event", "{}", "reason", "x", "bad", "1-1")
	f.Add("reason", "", "source_id", "", "", "")
	f.Add("packed", "3:abc0:", "packed", "1:", "r", "18446744073709551615-18446744073709551615")
	f.Add("\x00", "\xff\r\n", "", "", "poison", "x-y")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, reason, id string) {
		fields := []Field{{n1, v1}, {n2, v2}}
		d := Delivery{Entry: Entry{ID: id, Fields: fields}, Deliveries: 3}
		x := rueidis.XRangeSlice{ID: "5-5"}
		args := deadFields(d, reason, nil, time.UnixMilli(1))
		for i := 0; i < len(args); i += 2 {
			x.FieldValues = append(x.FieldValues, rueidis.XRangeFieldValue{Field: args[i], Value: args[i+1]})
		}
		got := deadLetterOf(x)
		if !slices.Equal(got.Fields, fields) || got.Reason != reason || got.SourceID != id || got.Attempts != 3 {
			t.Fatalf("parked %q, read %+v", fields, got)
		}
		foreign := rueidis.XRangeSlice{ID: id, FieldValues: []rueidis.XRangeFieldValue{{Field: n1, Value: v1}, {Field: n2, Value: v2}}}
		_ = deadLetterOf(foreign)
		if e, ok := entryOf("s", foreign); !ok || !slices.Equal(e.Fields, fields) {
			t.Fatalf("entry %+v", e)
		}
		if back, err := unpackFields(packFields(fields)); err != nil || !slices.Equal(back, fields) {
			t.Fatalf("packed %q, got %q, %v", fields, back, err)
		}
		_, _ = unpackFields(v1)
	})
}

// FuzzID: an id that is read is written the same, up to leading zeros, and
// next is the very next one.
func FuzzID(f *testing.F) {
	for _, s := range []string{"0-0", "1-18446744073709551615", "18446744073709551615-0", "1", "-", "", "1-1-1", "+1-1", "01-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := parseID(s)
		if err != nil {
			if CompareIDs(s, "0-0") != 0 {
				t.Fatalf("%q sorts after the first id", s)
			}
			return
		}
		again, err := parseID(id.String())
		if err != nil || again != id {
			t.Fatalf("%q: %v, %v, %v", s, id, again, err)
		}
		if id.ms < 1<<63 && (!id.less(id.next()) || id.next().less(id)) {
			t.Fatalf("%q: next is %v", s, id.next())
		}
		if id.age(time.Now()) < 0 {
			t.Fatalf("%q: negative age", s)
		}
	})
}

// FuzzURL: no URL makes the parser panic or puts a password into an error.
func FuzzURL(f *testing.F) {
	for _, s := range []string{
		"redis://u:hunter2@h:1/2", "rediss://h?ca_file=/nowhere", "redis+sentinel://a:1,b:2?master_set=m",
		"redis+cluster://a,b", "unix:///tmp/x", "redis://[::1]:1", "redis://,", "://", "redis+x://h",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := parseURL(s); err != nil && strings.Contains(s, ":hunter2@") && strings.Contains(err.Error(), "hunter2") {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

// FuzzInfo: what INFO says is read without trust.
func FuzzInfo(f *testing.F) {
	f.Add("redis_version:7.0.15\r\nmaxmemory:10\r\nused_memory:5\r\n")
	f.Add("maxmemory:\r\nused_memory:x\r\n:\r\n")
	f.Fuzz(func(_ *testing.T, s string) {
		server := serverOf(infoFields(s))
		_ = server.Check()
		_ = fill(server)
	})
}
