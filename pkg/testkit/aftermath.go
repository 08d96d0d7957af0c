package testkit

import (
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
)

// aftermath ends a server and removes its folder when the process has ended,
// however that came about: its standard input closes then, and only then.
const aftermath = `cat >/dev/null
here() { tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF "$2"; }
for try in 1 2 3 4 5 6 7 8 9 10; do
	here "$1" "$2" || break
	if [ $try -lt 6 ]; then kill -QUIT "$1"; else kill -KILL "$1"; fi 2>/dev/null
	sleep 0.2
done
for try in 1 2 3 4 5; do
	rm -rf "$2" 2>/dev/null
	[ -e "$2" ] || exit 0
	sleep 0.2
done`

var keepers struct {
	sync.Mutex
	pipes []io.Closer // open until the process ends
}

// cleanUpAfter has the server and its folder removed when this process ends.
// The server's command line must name the folder.
func cleanUpAfter(server *exec.Cmd, dir string) error {
	keeper := exec.Command("sh", "-c", aftermath, "sh", fmt.Sprint(server.Process.Pid), dir)
	keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ctrl-C is not for it
	pipe, err := keeper.StdinPipe()
	if err != nil {
		return err
	}
	if err := keeper.Start(); err != nil {
		return fmt.Errorf("start keeper of %s: %w", dir, err)
	}
	keepers.Lock()
	defer keepers.Unlock()
	keepers.pipes = append(keepers.pipes, pipe)
	return nil
}
