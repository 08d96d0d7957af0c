package store

import (
	"crypto/sha256"
	"encoding/hex"
)

// wake rechecks the posts that wait for a key and are younger than a stamp.
func (s *sim) wake(key string, what int16, after string) {
	key = waitKey(key)
	uris, _ := s.c.waits.get(key)
	for _, uri := range uris {
		s.recheck(uri, what, after)
	}
	for w := range s.waits {
		if w[0] == key {
			s.recheck(w[1], what, after)
		}
	}
}

func (s *sim) wait(key, uri string) {
	s.waits[[2]string{waitKey(key), uri}] = struct{}{}
	s.waiters[uri] = struct{}{}
}

// maxWaitKey bounds the keys of waiting. A gate may name a list by a uri that
// fits into no index.
const maxWaitKey = 512

// waitKey is a key as it is stored: a long one by its digest.
func waitKey(key string) string {
	if len(key) <= maxWaitKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "#:" + hex.EncodeToString(sum[:])
}
