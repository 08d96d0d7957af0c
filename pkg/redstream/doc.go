// Package redstream is a library for Redis Streams: an ordered writer with a
// cursor, consumer groups that lose nothing, safe trimming, high-water gates
// and dead letters. It knows nothing of what the entries mean.
package redstream
