// Package store applies changes of repositories to the tables of the AppView.
//
// A batch of changes is one transaction: lock the repositories, read what the
// changes touch, work out in memory what follows, write the difference with a
// few array statements. Working it out in memory means that a batch has the
// effect of its changes one after the other, whatever its size.
//
// What keeps the result independent of order:
//
//   - A record is guarded by its revision (record.rev) and the tombstone of its
//     uri; an account by a tombstone for all its records.
//   - Every row about a record is written under the lock of the record's own
//     repository, so counts and notifications follow from rows that are known.
//   - Facts between repositories are judged by what precedes by revision; what
//     was missing when they were judged leaves a row in recheck or waiting. A row
//     of recheck is taken once every transaction has ended that did not see it.
//
// A revision that came from a repository fetch says only that the record was
// there as of it. It is stored with a mark: "~" for a record seen in fetches
// only, "|" for one that was seen on the live stream too. Both sort after the
// revision itself.
package store
