// Package enumerate lists the repositories of the network and asks the
// backfiller for each of them: a repo_backfill entry for every row of
// listRepos, from the relays themselves or from every PDS they know.
//
// The place in a listing is saved in the same atomic step as the entries of
// its page, so a crash repeats no page and skips none. A page that fails is
// asked for again, with smaller limits, for as long as it takes.
package enumerate
