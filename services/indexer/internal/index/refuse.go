package index

import (
	"errors"
	"slices"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/derive"
)

// reasonOther stands for a reason that is not in the list.
const reasonOther = "other"

// refusals lists the reasons for which records and labels are refused: the
// closed set of a metric label.
func refusals() []string {
	return []string{"bad_record", "bad_subject", "bad_text", "bad_value", "key_too_long", "unknown_status", reasonOther}
}

// refusal names why a record or a label was refused.
func refusal(err error) string {
	if refused, ok := errors.AsType[*derive.RejectError](err); ok && slices.Contains(refusals(), string(refused.Reason)) {
		return string(refused.Reason)
	}
	return reasonOther
}

// byDatabase returns the error to park an entry with if it was the database
// that refused it, nil if it was we: then everything is as it should be.
func byDatabase(err error) error {
	refused, ok := errors.AsType[*derive.RejectError](err)
	if !ok || refused.Reason != derive.BadValue {
		return nil
	}
	return event.Drop(event.Reason(refused.Reason), refused.Err)
}
