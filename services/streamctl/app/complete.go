package app

import "github.com/spf13/cobra"

// completeStreams completes the first n arguments with the names of streams; -1
// completes all of them.
func (t *tool) completeStreams(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if n >= 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if err := t.load(cmd.Flags()); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return t.settings.topology().Streams(), cobra.ShellCompDirectiveNoFileComp
	}
}
