// Package fault sorts errors into three classes, decided once at the edge that
// knows, and retries the first of them.
//
// The class says what to do, not what happened: a Transient error is retried
// with the same input, a Permanent one parks the input, a Fatal one stops the
// process. An error without a class is Transient.
package fault

import (
	"errors"
	"fmt"
)

// Class says what the owner of a failed step does next.
type Class uint8

const (
	// Transient means: retry the same input with backoff and jitter.
	Transient Class = iota
	// Permanent means: the same input can never succeed; count it, park it, ack it.
	Permanent
	// Fatal means: our own state or configuration is in doubt; stop the process.
	Fatal
)

// String names the class as it stands in logs and metric labels.
func (c Class) String() string {
	switch c {
	case Permanent:
		return "permanent"
	case Fatal:
		return "fatal"
	default:
		return "transient"
	}
}

type classed struct {
	class Class
	err   error
}

func (e *classed) Error() string { return e.err.Error() }
func (e *classed) Unwrap() error { return e.err }

// As gives err the class c. It returns nil for a nil err. The outermost class
// of a chain counts, so an owner that knows better may wrap again.
func As(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &classed{class: c, err: err}
}

// Permanentf formats a Permanent error; %w works as in fmt.Errorf.
func Permanentf(format string, args ...any) error {
	return As(Permanent, fmt.Errorf(format, args...))
}

// Fatalf formats a Fatal error; %w works as in fmt.Errorf.
func Fatalf(format string, args ...any) error {
	return As(Fatal, fmt.Errorf(format, args...))
}

// ClassOf returns the class of err: the outermost one in its chain, Transient
// if it has none.
func ClassOf(err error) Class {
	if c, ok := errors.AsType[*classed](err); ok {
		return c.class
	}
	return Transient
}
