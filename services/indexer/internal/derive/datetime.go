package derive

import "time"

// layout is how every timestamp is stored: UTC, milliseconds, so that texts
// sort as times do.
const layout = "2006-01-02T15:04:05.000Z"

const epoch = "1970-01-01T00:00:00.000Z"

// Datetime normalises a timestamp. Digits beyond milliseconds are cut off, a
// day that the month does not have rolls over into the next one, and text that
// is no timestamp becomes the epoch.
func Datetime(s string) string {
	t, ok := ParseDatetime(s)
	switch {
	case !ok:
		return epoch
	case len(s) == len(layout) && s[len(s)-1] == 'Z' && (&scanner{s: s[len("2006-01-"):]}).digits(2) == t.Day():
		return s // in that form already
	default:
		return t.Format(layout)
	}
}

// ParseDatetime reads an RFC 3339 timestamp as UTC, with days up to 31 in every
// month and any number of digits of a second.
func ParseDatetime(s string) (time.Time, bool) {
	p := scanner{s: s}
	year := p.digits(4)
	p.byte('-')
	month := p.digits(2)
	p.byte('-')
	day := p.digits(2)
	p.byte('T')
	hour := p.digits(2)
	p.byte(':')
	minute := p.digits(2)
	p.byte(':')
	second := p.digits(2)
	milli := p.fraction()
	offset := p.zone()
	if p.bad || len(p.s) != 0 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, milli*int(time.Millisecond), time.UTC)
	t = t.Add(-time.Duration(offset) * time.Minute)
	return t, t.Year() >= 0 && t.Year() <= 9999
}

// scanner reads fixed fields from the front of s.
type scanner struct {
	s   string
	bad bool
}

func (p *scanner) digits(n int) int {
	if p.bad || len(p.s) < n {
		p.bad = true
		return 0
	}
	v := 0
	for i := range n {
		c := p.s[i]
		if c < '0' || c > '9' {
			p.bad = true
			return 0
		}
		v = v*10 + int(c-'0')
	}
	p.s = p.s[n:]
	return v
}

func (p *scanner) byte(c byte) {
	if p.bad || p.s == "" || p.s[0] != c {
		p.bad = true
		return
	}
	p.s = p.s[1:]
}

// fraction reads ".digits" and returns milliseconds.
func (p *scanner) fraction() int {
	if p.bad || p.s == "" || p.s[0] != '.' {
		return 0
	}
	p.s = p.s[1:]
	milli, n := 0, 0
	for p.s != "" && p.s[0] >= '0' && p.s[0] <= '9' {
		if n < 3 {
			milli = milli*10 + int(p.s[0]-'0')
		}
		n++
		p.s = p.s[1:]
	}
	if n == 0 {
		p.bad = true
	}
	for ; n < 3; n++ {
		milli *= 10
	}
	return milli
}

// zone reads "Z" or an offset and returns minutes east of UTC.
func (p *scanner) zone() int {
	if p.bad || p.s == "" {
		p.bad = true
		return 0
	}
	sign := p.s[0]
	p.s = p.s[1:]
	if sign == 'Z' {
		return 0
	}
	hour := p.digits(2)
	p.byte(':')
	minute := p.digits(2)
	if hour > 23 || minute > 59 || (sign != '+' && sign != '-') {
		p.bad = true
	}
	if sign == '-' {
		return -(hour*60 + minute)
	}
	return hour*60 + minute
}
