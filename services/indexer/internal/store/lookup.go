package store

import "maps"

// lookup answers reads from what has been loaded, and remembers what was asked
// for and is not loaded yet. An unknown key reads as absent; the caller works
// on and is repeated once the missing keys are there.
type lookup[V any] struct {
	have   map[string]V
	loaded map[string]struct{}
	miss   map[string]struct{}
}

// newLookup makes one with room for some missing keys.
func newLookup[V any](size int) lookup[V] {
	return lookup[V]{have: map[string]V{}, loaded: map[string]struct{}{}, miss: make(map[string]struct{}, size)}
}

func (l *lookup[V]) get(key string) (V, bool) {
	v, ok := l.have[key]
	if ok {
		return v, true
	}
	if _, known := l.loaded[key]; !known {
		l.miss[key] = struct{}{}
	}
	return v, false
}

// take returns the missing keys and counts them as loaded from now on.
func (l *lookup[V]) take() []string {
	if len(l.miss) == 0 {
		return nil
	}
	keys := make([]string, 0, len(l.miss))
	for k := range l.miss {
		keys = append(keys, k)
	}
	if len(l.loaded) == 0 { // most keys are asked for at first: no need to move them
		l.loaded, l.miss = l.miss, map[string]struct{}{}
		return keys
	}
	maps.Copy(l.loaded, l.miss)
	clear(l.miss)
	return keys
}

func (l *lookup[V]) missing() int { return len(l.miss) }
