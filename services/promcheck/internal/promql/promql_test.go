package promql

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func texts(in []Selector) []string {
	var out []string
	for _, s := range in {
		out = append(out, s.Text)
	}
	return out
}

func TestSelectors(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string][]string{
		`up`:           {"up"},
		`up == bool 1`: {"up"},
		`rate(a_total{x="1)",y=~'b"'}[5m]) > 1e3`:                       {`a_total{x="1)",y=~'b"'}`},
		`sum by (l) (rate(a[1m])) / sum by (l) (rate(b[1m] offset 5m))`: {"a", "b"},
		`max(a{s="x"}) and on () b:c:d > 0 or vector(1)`:                {`a{s="x"}`, "b:c:d"},
		`max_over_time(a[1h:1m])`:                                       {"a"},
		"a # b\n+ c":                                                    {"a", "c"},
		`topk(3, sum(a) by (l))`:                                        {"a"},
		`x * on (i) group_left (v) y`:                                   {"x", "y"},
		`time() - a`:                                                    {"a"},
	} {
		e, err := Parse(expr)
		require.NoError(t, err, expr)
		require.Equal(t, want, texts(e.Selectors), expr)
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	e, err := Parse(`histogram_quantile(0.9, sum by (le, stage) (rate(a_bucket[5m]))) > on (stage) max by (stage, x) (max by (x) (b))`)
	require.NoError(t, err)
	require.Len(t, e.Aggregations, 3)
	require.Equal(t, []string{"le", "stage"}, e.Aggregations[0].By)
	require.Equal(t, []string{"a_bucket"}, texts(e.Within(e.Aggregations[0])))
	require.Equal(t, []string{"b"}, texts(e.Within(e.Aggregations[1])))
	require.Equal(t, []string{"x"}, e.Inner(e.Aggregations[1])[0].By)
	require.Empty(t, e.Inner(e.Aggregations[0]))
	labels, of := e.Output()
	require.Nil(t, of)
	require.Equal(t, []string{"stage"}, labels, "a quantile has no le")
	require.Len(t, e.Matchings, 1)
	left, right := e.Sides(e.Matchings[0])
	require.Equal(t, []string{"a_bucket"}, texts(left))
	require.Equal(t, []string{"b"}, texts(right))
}

func TestSidesEndAtTheBrackets(t *testing.T) {
	t.Parallel()
	e, err := Parse(`(a and on (l) b) or c`)
	require.NoError(t, err)
	left, right := e.Sides(e.Matchings[0])
	require.Equal(t, []string{"a"}, texts(left))
	require.Equal(t, []string{"b"}, texts(right))
	_, of := e.Output()
	require.Equal(t, "a", of.Text)
}

func TestGroupingAfterTheArguments(t *testing.T) {
	t.Parallel()
	e, err := Parse(`sum(a) by (x, y)`)
	require.NoError(t, err)
	labels, _ := e.Output()
	require.True(t, slices.Equal([]string{"x", "y"}, labels))
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, expr := range []string{`sum(a`, `a)`, `a{x="y}`, `{x="y"}`, `sum without (x) (a)`, `a + ignoring (x) b`, `sum by x (a)`, `sum by (x) a`} {
		_, err := Parse(expr)
		require.Error(t, err, expr)
	}
}
