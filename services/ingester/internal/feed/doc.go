// Package feed holds what following the sequence of a host needs, whatever the
// sequence carries: the host's name, the order of sequence numbers, and the
// frames that cannot be read.
package feed
