// Package repos follows the repositories of the network: it reads
// subscribeRepos of any number of relays and appends what is kept to the live
// stream, together with each relay's cursor.
//
// The walk of one frame, left to right through the files:
//
//	read.go      a frame takes a slot in the order it was read
//	dispatch.go  slots of one DID are judged one after the other, others beside them
//	judge.go     the frame is verified against what is known of the repository
//	convert.go   what is kept becomes entries
//	write.go     the finished prefix of the slots is appended with the cursor
//
// Every stage waits for the next one; nothing is dropped to make room. A
// cursor is never above a sequence number whose entries are not in the stream.
package repos
