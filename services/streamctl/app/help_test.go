package app

import (
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"sluice/pkg/redstream"
)

// commands lists every command that does something.
func commands(cmd *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, c := range cmd.Commands() {
		if c.Name() == "completion" || c.Name() == "help" {
			continue // of the library
		}
		if c.Runnable() && !c.Hidden && !c.HasSubCommands() {
			all = append(all, c)
		}
		all = append(all, commands(c)...)
	}
	return all
}

func TestEveryCommandHasAnExampleThatIsOne(t *testing.T) {
	t.Parallel()
	root := (&tool{}).root()
	root.InitDefaultCompletionCmd()
	all := commands(root)
	require.Greater(t, len(all), 20)
	for _, c := range append(all, root) {
		require.NotEmpty(t, c.Short, c.CommandPath())
		require.NotEmpty(t, c.Example, c.CommandPath())
		for line := range strings.SplitSeq(c.Long+"\n"+c.Example, "\n") {
			require.LessOrEqual(t, utf8.RuneCountInString(line), 104, line)
		}
		for line := range strings.SplitSeq(c.Example, "\n") {
			_, args, ok := strings.Cut(line, "streamctl ")
			require.True(t, ok, line)
			found, _, err := root.Find(strings.Fields(args))
			require.NoError(t, err, line)
			require.True(t, found == c || c == root, "%s: %s", c.CommandPath(), line)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		require.Contains(t, r.ok("completion", shell), "streamctl")
	}
	r.env = append(r.env, "BACKFILLER_BACKFILL_STREAM=jobs")
	for _, args := range [][]string{{"peek"}, {"dlq", "ls"}, {"trim"}, {"cursor", "set"}} {
		out := r.ok(append(append([]string{"__complete"}, args...), "")...)
		require.Contains(t, out, "firehose_live\n")
		require.Contains(t, out, "jobs\n", "the streams of the settings")
	}
	require.NotContains(t, r.ok("__complete", "peek", "firehose_live", ""), "firehose_backfill")
}

func TestNothingIsChangedWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	r.add(c, "label_live", "a", "b")
	require.NoError(t, c.EnsureGroup(t.Context(), "label_live", "label_group"))
	r.add(c, "firehose_live", "a")
	require.NoError(t, c.SetCursor(t.Context(), "firehose_live:cursor:h", "5"))
	w, err := c.DeadLetters("firehose_live", "").Writer()
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, w.Append(t.Context(), []redstream.Item{{Fields: []redstream.Field{{Name: "event", Value: "x"}, {Name: "reason", Value: "poison"}}}}))
	for _, args := range [][]string{
		{"trim"},
		{"repair"},
		{"cursor", "set", "firehose_live", "h", "1"},
		{"cursor", "rm", "firehose_live", "h"},
		{"dlq", "drop", "firehose_live", "--all"},
		{"dlq", "redrive", "firehose_live", "--all"},
	} {
		code, _, errs := r.run(args...)
		require.Equal(t, 1, code, args)
		require.Contains(t, errs, "not confirmed", args)
		r.in = "n\n"
	}
	require.Contains(t, r.ok("cursor", "get"), "5")
	require.Contains(t, r.ok("dlq", "ls"), "poison")
	r.in = "y\n"
	require.Contains(t, r.ok("cursor", "set", "firehose_live", "h", "1"), "5 -> 1")
}

func TestDeadLettersOfAnotherName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.env = append(r.env, "BACKFILLER_DLQ_STREAM=given_up")
	c := r.client()
	w, err := c.NewWriter(redstream.WriterConfig{Stream: "given_up"})
	require.NoError(t, err)
	defer w.Close()
	did := "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
	require.NoError(t, w.Append(t.Context(), []redstream.Item{{Fields: []redstream.Field{
		{Name: "repo", Value: `{"did":"` + did + `","active":true}`}, {Name: "reason", Value: "too_large"}, {Name: "error", Value: "5 GiB"},
	}}}))
	require.Contains(t, r.ok("dlq", "ls"), "too_large")
	require.Contains(t, r.ok("dlq", "ls", "given_up"), "5 GiB")
	require.Contains(t, r.ok("dlq", "ls", "repo_backfill"), "5 GiB")
	require.Contains(t, r.ok("dlq", "ls", "given_up", "--reason", "zzz"), `no dead letters with reason "zzz"; there are too_large (1)`)
	require.Contains(t, r.ok("dlq", "ls", "given_up", "--after", "9999999999999-0"), "no more dead letters after 9999999999999-0; there are too_large (1)")
	require.Contains(t, r.ok("dlq", "ls", "firehose_live", "--reason", "zzz"), "no dead letters\n")
	_, out, _ := r.run("doctor", "--for", "10ms")
	require.Contains(t, out, "repo_backfill has 1 dead letters (too_large 1)")
	r.in = "y\n"
	r.ok("dlq", "drop", "given_up", "--all")
	require.Contains(t, r.ok("dlq", "ls"), "no dead letters")
}

// A word that is no command is an error that names those there are, and a
// wrong number of arguments one that says what is wanted.
func TestMistypedCommands(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"backfill stat": `unknown command "stat" of streamctl backfill: there are add, pause`,
		"dlq list":      `unknown command "list" of streamctl dlq: there are drop, ls`,
		"statsu":        `unknown command "statsu" of streamctl`,
		"cursor set a":  "want streamctl cursor set <stream> <host> <value>",
	} {
		tl := &tool{out: io.Discard, err: io.Discard}
		root := tl.root()
		root.SetArgs(strings.Fields(line))
		root.SetOut(io.Discard)
		require.ErrorContains(t, root.ExecuteContext(t.Context()), want, line)
	}
}
