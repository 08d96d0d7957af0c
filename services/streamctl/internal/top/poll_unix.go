//go:build unix

package top

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// readable waits at most so long until a read of fd would not block.
func readable(fd int, d time.Duration) (bool, error) {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(d.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return n > 0, err
}
