// Package lane keeps per-key order in a process while working in batches and
// in parallel: a value goes to the lane of its key, and one goroutine a lane
// applies what it has collected. Everything is bounded; full means the producer
// waits.
//
// Frontier finds the lowest unfinished sequence number among those that were
// finished in any order.
package lane
