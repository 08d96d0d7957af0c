package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"sluice/pkg/config"
)

func (t *tool) configCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config [print|reference|names]",
		Short: "Print the settings that are in effect, secrets redacted",
		Long: "Print shows the settings as YAML that --config takes; reference describes each with its default;\n" +
			"names lists the variables of the environment.",
		Example:   "  streamctl config\n  streamctl config reference",
		ValidArgs: []string{"print", "reference", "names"},
		Args:      cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "print"
			if len(args) == 1 {
				what = args[0]
			}
			switch what {
			case "print":
				if err := cmd.Flags().Set("print-config", "true"); err != nil {
					return err
				}
				return t.load(cmd.Flags())
			case "reference":
				return config.Reference(t.out, &t.settings)
			case "names":
				settings, err := config.Settings(&t.settings)
				if err != nil {
					return err
				}
				for _, s := range settings {
					if _, err := fmt.Fprintln(t.out, s.Name); err != nil {
						return err
					}
				}
				return nil
			}
			return fmt.Errorf("config %s: want print, reference or names", what)
		},
	}
	return cmd
}
