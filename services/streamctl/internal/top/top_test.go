package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"sluice/pkg/redstream"
	"sluice/services/streamctl/internal/doctor"
	"sluice/services/streamctl/internal/road"
	"sluice/services/streamctl/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample is a view in which everything is wrong at once, with long names.
func sample() *road.View {
	stream := func(name, role string, length, mark, lag int64, wait float64) road.Stream {
		return road.Stream{Name: name, Role: role, Length: length, Mark: mark, Lag: lag, Pending: 1200, Wait: wait, In: 1234.5, Out: 0.25, HolderGroup: "firehose_group", HolderConsumer: "a-container-with-a-very-long-name-0123456789"}
	}
	live, jobs := stream("firehose_live", "live", 99_000, 100_000, 98_000, 4000), stream("repo_backfill", "jobs", 10, 100_000, 20_000_000, 0)
	back, labels := stream("firehose_backfill", "backfill", 500_000, 500_000, 7, 3), stream("label_live", "labels", 0, 100_000, -1, 0)
	back.Closed, live.Unknown = true, []string{"debug_group"}
	checked := time.Now()
	return &road.View{
		At: time.Now(), Verdict: road.Verdict{State: road.Broken, Because: strings.Repeat("nobody reads it; ", 9), Do: "start the service that reads it", Also: []string{strings.Repeat("and so on ", 20)}},
		Redis: road.Redis{Version: "7.4.1", Used: 3 << 30, Max: 4 << 30}, Streams: []road.Stream{live, jobs, back, labels}, Checked: &checked,
		Readers: []road.Reader{
			{Name: "a-container-with-a-very-long-name-0123456789", Kind: "indexer", State: road.Abandoned, Pending: 1200, Asked: -1, Streams: []string{"firehose_live", "firehose_backfill", "label_live"}},
			{Name: "backfiller-1", Kind: "backfiller", State: road.Reading, Asked: 0.4, Streams: []string{"repo_backfill"}},
		},
		Backfill: &road.Backfill{Done: 12_345_678, Total: 45_000_000, Rate: 88.2, Left: 370_000},
		Parked:   []road.Parked{{Stream: "firehose_live", Reason: "bad_record", Count: 12}},
		Findings: []doctor.Finding{{Level: doctor.Bad, Check: "postgresql", What: "the server is a standby", Do: "point DATABASE_URL at the primary"}, {Level: doctor.OK, Check: "versions", What: "fine"}},
	}
}

var escape = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)

func TestFramesFitTheWindow(t *testing.T) {
	t.Parallel()
	for _, width := range []int{40, 60, 80, 100, 132, 240} {
		for _, height := range []int{0, 10, 24, 60} {
			for _, s := range []state{{}, {chosen: "firehose_live", only: true}, {order: byWait, help: true, paused: true}} {
				lines := frame(sample(), s, painter{}, width, height)
				if height > 0 {
					require.Len(t, lines, height)
				}
				for _, l := range lines {
					plain := escape.ReplaceAllString(l, "")
					require.LessOrEqual(t, utf8.RuneCountInString(plain), width, "%q at %d×%d", plain, width, height)
				}
			}
		}
	}
}

func TestAFrameSaysWhatMatters(t *testing.T) {
	t.Parallel()
	text := strings.Join(frame(sample(), state{}, painter{plain: true}, 80, 0), "\n")
	require.NotContains(t, text, "\x1b", "no colours")
	for _, want := range []string{
		"■ Broken", "because nobody reads it", "do: start the service that reads it", "redis 7.4.1, 3.0 GiB of 4.0 GiB",
		"  firehose_live     ████████  99% open     98000   1200   1h06m    1235     0.2", "CLOSED", "20M", "unknown group on firehose_live: debug_group",
		"the floor of firehose_live is held by a-container-with-a-very-long-name", "backfill █████░░░░░░░░░░░░░░░ 27.4%, 4d06h left at 88/s, 12,345,678 of 45,0",
		"DEAD", "parked: 12 of firehose_live, bad_record", "bad postgresql: the server is a standby", "do point DATABASE_URL at the primary",
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "versions", "what is fine needs no room")
	require.Contains(t, strings.Join(frame(sample(), state{}, painter{}, 80, 0), "\n"), "\x1b[31m")
}

func TestKeys(t *testing.T) {
	t.Parallel()
	v := sample()
	var s state
	first := func() string {
		for _, l := range frame(v, s, painter{plain: true}, 80, 0) {
			if strings.Contains(l, "█") || strings.Contains(l, "░") {
				return strings.Fields(strings.TrimPrefix(l, ">"))[0]
			}
		}
		return ""
	}
	require.Equal(t, "firehose_live", first())
	for _, want := range []string{"firehose_live", "repo_backfill", "firehose_backfill", "firehose_live"} { // oldest, lag, fill, road
		require.False(t, s.press("s", v))
		require.Equal(t, want, first())
	}
	require.False(t, s.press("\x1b[B", v))
	require.False(t, s.press("j", v))
	require.Equal(t, "repo_backfill", s.chosen)
	require.False(t, s.press("\r", v))
	text := strings.Join(frame(v, s, painter{plain: true}, 80, 0), "\n")
	require.Contains(t, text, "READ repo_backfill")
	require.NotContains(t, text, "DEAD")
	require.Contains(t, text, "backfiller-1")
	require.False(t, s.press("\x1b", v))
	require.Equal(t, state{}, s)
	require.False(t, s.press("\x1b[A", v))
	require.Equal(t, "label_live", s.chosen, "up from nothing is the last")
	for _, end := range []string{"q", "\x03"} {
		require.True(t, s.press(end, v))
	}
}

func TestWithoutATerminal(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _, _ = r.Close(), w.Close() }()
	require.ErrorIs(t, Run(t.Context(), Config{In: r, Out: w}), ErrNoTerminal)
}

// eyes see an empty sluice, or nothing.
type eyes struct{ err error }

func (e eyes) Look(context.Context) (*road.Look, error) {
	if e.err != nil {
		return nil, e.err
	}
	top := status.Topology{Live: "firehose_live", Backfill: "firehose_backfill", Labels: "label_live", Jobs: "repo_backfill"}
	p := &status.Picture{At: time.Now(), Server: redstream.Server{Version: "7.4.1"}}
	for _, name := range top.Streams() {
		p.Streams = append(p.Streams, status.Stream{Name: name, In: 1, Out: 1})
	}
	return &road.Look{Topology: top, Picture: p, Marks: map[string]int64{}}, nil
}

func (e eyes) Examine(context.Context) (*road.Examination, error) {
	return &road.Examination{At: time.Now(), Tables: road.Tables{State: "ok"}}, e.err
}

func TestOnce(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	require.NoError(t, Once(t.Context(), road.New(eyes{}, road.Config{Every: 10 * time.Millisecond}), &out, true, 80))
	require.Contains(t, out.String(), "● Healthy")
	require.Contains(t, out.String(), "firehose_backfill")
	err := Once(t.Context(), road.New(eyes{errors.New("connection refused")}, road.Config{Every: 10 * time.Millisecond}), &out, true, 80)
	require.EqualError(t, err, "Redis cannot be seen: connection refused")
}

// terminal is both ends of a pseudo terminal; what is shown is collected.
type terminal struct {
	master, slave *os.File
	mu            sync.Mutex
	shown         strings.Builder
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		t.Skip("no /dev/ptmx here")
	}
	require.NoError(t, err)
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	x := &terminal{master: master, slave: slave}
	x.resize(t, 80, 24)
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			x.mu.Lock()
			x.shown.Write(buf[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = slave.Close()
		_ = master.Close()
		reading.Wait()
	})
	return x
}

func (x *terminal) resize(t *testing.T, width, height uint16) {
	t.Helper()
	require.NoError(t, unix.IoctlSetWinsize(int(x.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}))
}

// text takes what was shown since the last call.
func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shown.String()
}

func (x *terminal) until(t *testing.T, what string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(x.text(), what) }, 60*time.Second, 20*time.Millisecond, "%q in %q", what, x)
}

func (x *terminal) String() string { return x.text() }

func TestInATerminal(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{"q": "q", "Ctrl-C": "\x03"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := openTerminal(t)
			before, err := term.GetState(int(x.slave.Fd()))
			require.NoError(t, err)
			ended := make(chan error, 1)
			go func() {
				ended <- Run(t.Context(), Config{Watcher: road.New(eyes{}, road.Config{Every: 20 * time.Millisecond}), Plain: true, In: x.slave, Out: x.slave})
			}()
			x.until(t, "● Healthy")
			require.Contains(t, x.text(), enter)
			x.until(t, "s sort: road")
			_, err = x.master.WriteString("s")
			require.NoError(t, err)
			x.until(t, "s sort: oldest")
			x.resize(t, 120, 40)
			require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGWINCH))
			x.until(t, "\r\nq quit  ↑↓ choose")
			_, err = x.master.WriteString(end)
			require.NoError(t, err)
			select {
			case err := <-ended:
				require.NoError(t, err)
			case <-time.After(20 * time.Second):
				t.Fatal("it does not end")
			}
			x.until(t, leave)
			after, err := term.GetState(int(x.slave.Fd()))
			require.NoError(t, err)
			require.Equal(t, before, after, "the terminal is as it was")
		})
	}
}
