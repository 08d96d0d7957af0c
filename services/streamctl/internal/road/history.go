package road

import "time"

// Point is the age of the oldest unfinished entry of each stream at one
// moment: Unix seconds, then one number a stream in the order of the road.
type Point []float64

// History is the lag of the last hour and of the last day.
type History struct {
	Streams []string `json:"streams"`
	Hour    []Point  `json:"hour"`
	Day     []Point  `json:"day"`
}

// ring keeps the points of a span, one for each step: the worst of those that
// fall into it. It is not safe for concurrent use.
type ring struct {
	step   time.Duration
	points []Point // at most size
	next   int     // where the oldest is, once it is full
	size   int
}

func newRing(span, step time.Duration) *ring { return &ring{step: step, size: int(span / step)} }

// add takes a point; those of one step become one.
func (r *ring) add(at time.Time, values []float64) {
	slot := float64(at.Truncate(r.step).Unix())
	if last := r.last(); last != nil && last[0] == slot && len(last) == len(values)+1 {
		for i, v := range values {
			last[i+1] = max(last[i+1], v)
		}
		return
	}
	p := append(Point{slot}, values...)
	if len(r.points) < r.size {
		r.points = append(r.points, p)
		return
	}
	r.points[r.next] = p
	r.next = (r.next + 1) % r.size
}

func (r *ring) last() Point {
	if len(r.points) == 0 {
		return nil
	}
	return r.points[(r.next+len(r.points)-1)%len(r.points)]
}

// all copies the points, the oldest first.
func (r *ring) all() []Point {
	out := make([]Point, 0, len(r.points))
	for i := range r.points {
		out = append(out, append(Point(nil), r.points[(r.next+i)%len(r.points)]...))
	}
	return out
}
