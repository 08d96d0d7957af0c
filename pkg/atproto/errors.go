package atproto

import (
	"errors"

	"sluice/pkg/event"
)

// errStop ends a walk early.
var errStop = errors.New("stop")

// asDrop gives err a reason and a subject unless it has a reason already.
func asDrop(reason event.Reason, subject string, err error) error {
	var drop *event.DropError
	if err == nil || errors.As(err, &drop) {
		return err
	}
	return event.Dropf(reason, "%s: %w", subject, err)
}

// ReasonOf returns the reason of a dropped input, or "" if err is none.
func ReasonOf(err error) event.Reason {
	if drop, ok := errors.AsType[*event.DropError](err); ok {
		return drop.Reason
	}
	return ""
}
