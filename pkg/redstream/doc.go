// Package redstream is a library for Redis Streams: an ordered writer with a
// cursor, consumer groups that lose nothing, safe trimming, high-water gates
// and dead letters. It knows nothing of what the entries mean.
//
// # A stream of your own
//
// Open one [Client] for a process. Names are plain; [Config.KeyPrefix] and, on
// a cluster, hash tags are added inside.
//
//   - Whoever writes has a [Writer] and asks a [Gate] before each piece of work.
//     AppendSeq writes entries and a numeric cursor in one step and adds
//     nothing when it is repeated; AppendCAS does the same for a cursor that
//     is text.
//   - Whoever reads has a [Consumer]. Run calls a [Handler]; the handler ends
//     every delivery with exactly one of Ack (its effect is durable), Retry
//     (later), Park (never, with a reason). Run ends with its context; then
//     Close hands over what is left.
//   - Somebody, in any number of processes, runs a [Trimmer] and a [Monitor]
//     for the streams. An entry goes when every group has finished it; a group
//     that is expected and not there yet, and a group that nobody declared,
//     keep what they have not read.
//   - Parked entries are in the stream's [DLQ]. [Delayed] is a schedule of
//     entries that shall come again later.
//
// The runnable example of the package is all of it in one function.
//
// # What holds
//
//   - An append is done whole or not at all, and it is repeated until it is
//     done. No entry is ever dropped to make room: a full Redis makes the
//     writer wait.
//   - Every entry is delivered until it is acked or parked, at least once. A
//     consumer that starts reads its own pending entries first, once, then new
//     ones; entries of consumers that died are taken over after
//     [ConsumerConfig.ClaimIdle]; an answer that was lost leaves no orphan.
//   - An entry that was handed out MaxDeliveries times without an end is
//     parked as "poison". The last deliveries are made one entry at a time, so
//     that entries which were only held together with a bad one are not
//     parked for it. While [Consumer.Unhealthy] is set nothing is counted.
//   - A trim removes nothing that a group may still need, in bounded steps.
//     Pending ids whose entry was deleted by hand (phantoms) do not hold it up
//     and are forgotten.
//   - A group or a stream that vanishes is created again at its first entry.
//   - When a failover or a restore took the tail of the stream away, the
//     cursor in the same Redis went back with it, and the writer reports
//     [ErrCursorMoved] instead of jumping over the hole.
//   - Ids are never used as keys of effects: after a failover Redis gives the
//     same id to other content.
//
// # Servers
//
// Redis 7.0 or later, or Valkey, with maxmemory-policy noeviction: alone, with
// TLS, behind Sentinel, or as a cluster; see [Config.URL]. Everything is done
// with commands that Redis 7.0 has. Newer ones that would save round trips
// (XACKDEL, XTRIM ACKED, XREADGROUP CLAIM, XNACK) are detected where COMMAND
// INFO names them and shown in [Server.Features]; they are not used.
//
// # Errors
//
// Errors have the classes of package fault and the names of this package
// ([ErrMemory], [ErrWrongType] and so on). Appends, acks, parks and delays
// repeat Transient errors themselves; calls that only look return them.
package redstream
