package simnet

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// The faults of a relay's stream that leave the truth as it is by themselves.
const (
	FaultDisconnect = "disconnect"  // the connection ends without a word
	FaultDuplicate  = "duplicate"   // a frame is sent twice
	FaultGarbage    = "garbage"     // a message that is no frame
	FaultErrorFrame = "error_frame" // ConsumerTooSlow, then the end
	FaultSlow       = "slow"        // a frame in small pieces with pauses
	FaultStall      = "stall"       // nothing for StallTime, pings are answered
	FaultText       = "text"        // a text message
	FaultHugeFrame  = "huge_frame"  // a message of 8 MiB
)

// The faults of a stream that keep a true commit from the reader. They fire
// only where a later commit of the same account shows that one is missing.
const (
	FaultReorder        = "reorder"         // a frame comes after its successor of another account
	FaultGap            = "gap"             // a frame is not sent at all
	FaultTruncatedCAR   = "truncated_car"   // the blocks end in the middle
	FaultMissingBlock   = "missing_block"   // a record is not among the blocks
	FaultWrongSignature = "wrong_signature" // signed by nobody
	FaultWrongCID       = "wrong_cid"       // a block does not hash to its CID
	FaultWrongCommit    = "wrong_commit"    // the envelope names another commit than the blocks
	FaultWrongPrev      = "wrong_prev"      // prevData is not what was before
	FaultFutureRev      = "future_rev"      // a rev of years to come, well signed
	FaultTooBig         = "too_big"         // tooBig is set and there are no ops
	FaultDuplicateKeys  = "duplicate_keys"  // a map of the message has a key twice
)

// The faults of a server that is asked for repositories, of the directory and
// of the labeler. Each hits a repository or document at most once.
const (
	FaultPDS429            = "pds_429"      // with RateLimit-* and Retry-After
	FaultPDS429Bare        = "pds_429_html" // an HTML page without headers
	FaultPDS5xx            = "pds_5xx"
	FaultPDSCut            = "pds_cut"  // the connection ends in the middle of the body
	FaultPDSSlow           = "pds_slow" // the body in small pieces with pauses
	FaultPDSTruncatedCAR   = "pds_truncated_car"
	FaultPDSMissingBlock   = "pds_missing_block"
	FaultPDSWrongSignature = "pds_wrong_signature"
	FaultPDSWrongCID       = "pds_wrong_cid"
	FaultList429           = "list_429"
	FaultList5xx           = "list_5xx"
	FaultPLC429            = "plc_429"
	FaultPLC5xx            = "plc_5xx"
	FaultPLCEndless        = "plc_endless"       // a document without end
	FaultPLCRedirect       = "plc_redirect_loop" // to itself
	FaultPLCGarbage        = "plc_garbage"       // a page that is no document
	FaultLabelDisconnect   = "label_disconnect"
	FaultLabelDuplicate    = "label_duplicate"
	FaultLabelGarbage      = "label_garbage"
	FaultLabelErrorFrame   = "label_error_frame"
)

// StreamFaults are the faults of a relay's stream.
func StreamFaults() []string { return append(harmless(), damaging()...) }

func harmless() []string {
	return []string{
		FaultDisconnect, FaultDuplicate, FaultGarbage, FaultErrorFrame, FaultSlow, FaultStall, FaultText,
		FaultHugeFrame,
	}
}

func damaging() []string {
	return []string{
		FaultReorder, FaultGap, FaultTruncatedCAR, FaultMissingBlock, FaultWrongSignature, FaultWrongCID,
		FaultWrongCommit, FaultWrongPrev, FaultFutureRev, FaultTooBig, FaultDuplicateKeys,
	}
}

// RepoFaults are the faults of getRepo.
func RepoFaults() []string {
	return []string{
		FaultPDS429, FaultPDS429Bare, FaultPDS5xx, FaultPDSCut, FaultPDSSlow, FaultPDSTruncatedCAR,
		FaultPDSMissingBlock, FaultPDSWrongSignature, FaultPDSWrongCID,
	}
}

// OtherFaults are those of listings, the directory and the labeler.
func OtherFaults() []string {
	return []string{
		FaultList429, FaultList5xx, FaultPLC429, FaultPLC5xx, FaultPLCEndless, FaultPLCRedirect, FaultPLCGarbage,
		FaultLabelDisconnect, FaultLabelDuplicate,
		FaultLabelGarbage, FaultLabelErrorFrame,
	}
}

func defaultEvery(name string) int {
	if slices.Contains(StreamFaults(), name) {
		return 40
	}
	return 3
}

// Rule says when a fault fires.
type Rule struct {
	// Every: at each n-th chance. A chance is a frame or a request.
	Every int `json:"every"`
	// Times is how often at most; 0 switches the fault off, negative is without
	// end.
	Times int `json:"times"`
}

type fault struct {
	Rule
	chances, fired int
	on             map[string]bool // what it has hit already
}

// Faults is the switchboard. Its methods may be called concurrently.
type Faults struct {
	mu    sync.Mutex
	all   map[string]*fault
	extra map[string]int
}

func newFaults() *Faults {
	f := &Faults{all: map[string]*fault{}, extra: map[string]int{}}
	for _, list := range [][]string{StreamFaults(), RepoFaults(), OtherFaults()} {
		for _, name := range list {
			f.all[name] = &fault{on: map[string]bool{}}
		}
	}
	return f
}

// Set makes a fault fire by the rule, from now on.
func (f *Faults) Set(name string, r Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.all[name]
	if one == nil {
		return fmt.Errorf("fault %q is unknown; one of %s", name, strings.Join(f.names(), ", "))
	}
	if r.Every <= 0 {
		r.Every = defaultEvery(name)
	}
	one.Rule = r
	one.chances = 0
	if r.Times > 0 {
		one.Times += one.fired
	}
	return nil
}

func (f *Faults) names() []string {
	names := make([]string, 0, len(f.all))
	for n := range f.all {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Apply reads a list like "disconnect=3/20,pds_429,gap=2": name, how often
// (default once), at each how manieth chance (default 40 for frames, 3 for
// requests). "all" is every fault once.
func (f *Faults) Apply(spec string) error {
	for item := range strings.SplitSeq(spec, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		name, value, given := strings.Cut(item, "=")
		rule := Rule{Times: 1}
		if given {
			times, every, _ := strings.Cut(value, "/")
			var err error
			if rule.Times, err = strconv.Atoi(times); err != nil {
				return fmt.Errorf("fault %q: times is not a number", item)
			}
			if every != "" {
				if rule.Every, err = strconv.Atoi(every); err != nil || rule.Every < 1 {
					return fmt.Errorf("fault %q: every is not a positive number", item)
				}
			}
		}
		names := []string{name}
		if name == "all" {
			names = f.Names()
		}
		for _, n := range names {
			if err := f.Set(n, rule); err != nil {
				return err
			}
		}
	}
	return nil
}

// Names returns the name of every fault, sorted.
func (f *Faults) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.names()
}

// Fired is how often a fault has fired. Hostile accounts count under
// "hostile_" and their kind.
func (f *Faults) Fired(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.all[name]; one != nil {
		return one.fired
	}
	return f.extra[name]
}

// Counts returns how often each fault has fired that has.
func (f *Faults) Counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]int{}
	for name, one := range f.all {
		if one.fired > 0 {
			out[name] = one.fired
		}
	}
	maps.Copy(out, f.extra)
	return out
}

// Pending returns the faults that are switched on with an end and have not
// fired as often as they were told to.
func (f *Faults) Pending() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for name, one := range f.all {
		if one.Times > 0 && one.fired < one.Times {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}

func (f *Faults) count(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.extra[name]++
}

// fire takes one chance of a fault and says whether it fires. With a subject,
// it hits each subject once.
func (f *Faults) fire(name, subject string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.all[name]
	if one.Times == 0 || (one.Times > 0 && one.fired >= one.Times) || (subject != "" && one.on[subject]) {
		return false
	}
	if one.chances++; one.chances < one.Every {
		return false
	}
	one.chances = 0
	one.fired++
	if subject != "" {
		one.on[subject] = true
	}
	return true
}

// armed says whether any of the faults may fire.
func (f *Faults) armed(names []string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range names {
		if one := f.all[n]; one.Times < 0 || one.fired < one.Times {
			return true
		}
	}
	return false
}
