package check

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fake answers queries for whole selectors; anything else has an empty result.
func fake(t *testing.T, series map[string][]map[string]string) *Checker {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query().Get("query")
		if strings.Contains(query, "nonsense(") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"status":"error","error":"unknown function"}`))
			return
		}
		result := []map[string]any{}
		for _, labels := range series[query] {
			result = append(result, map[string]any{"metric": labels, "value": []any{1, "1"}})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": result}})
	}))
	t.Cleanup(s.Close)
	return &Checker{Server: &Prometheus{URL: s.URL, Client: &http.Client{Timeout: 10 * time.Second}}}
}

func TestWhatIsFound(t *testing.T) {
	t.Parallel()
	c := fake(t, map[string][]map[string]string{
		`a`:         {{"stream": "s", "instance": "i"}},
		`a{x="1"}`:  {{"stream": "s", "x": "1"}},
		`b`:         {{"stream": "s"}},
		`h_bucket`:  {{"le": "1", "stage": "live"}},
		`r:b:max`:   {{"stream": "s"}},
		`no_labels`: {{}},
	})
	for _, tc := range []struct{ expr, text, want string }{
		{expr: `sum by (stream) (rate(a[1m])) > 0`, text: "{{ $labels.stream }} at {{ $value }}"},
		{expr: `a{x="1"} and on (stream) b`, text: "{{x}}"},
		{expr: `histogram_quantile(0.9, sum by (le, stage) (rate(h_bucket[1m])))`, text: "{{stage}}"},
		{expr: `sum by (group, stream) (sluice_redstream_floor_holder)`, text: "{{group}}"},
		{expr: `r:b:max and on () sum(no_labels) > 0`},
		{expr: `rate(gone[1m])`, want: "gone has no series"},
		{expr: `a{x="2"}`, want: `a{x="2"} has no series`},
		{expr: `sum by (group) (a)`, want: "a has no label group"},
		{expr: `sum by (stream) (max by (instance) (a))`, want: "label stream is gone after the inner aggregation"},
		{expr: `a and on (instance) b`, want: "one side has no such label"},
		{expr: `sum by (stream) (a)`, text: "{{instance}}", want: "no label instance"},
		{expr: `b`, text: "{{ $labels.instance }}", want: "no label instance"},
		{expr: `histogram_quantile(0.9, sum by (le) (h_bucket))`, text: "{{le}}", want: "no label le"},
		{expr: `sum by (stream) (a`, want: "not closed"},
		{expr: `1 + 1`, want: "names no metric"},
	} {
		problems, err := c.Check(t.Context(), Use{Where: "here", Expr: tc.expr, Texts: []string{tc.text}})
		require.NoError(t, err, tc.expr)
		if tc.want == "" {
			require.Empty(t, problems, tc.expr)
			continue
		}
		require.Contains(t, strings.Join(problems, "\n"), tc.want, tc.expr)
		require.True(t, strings.HasPrefix(problems[0], "here: "))
	}
}

func TestAnErrorOfTheServerIsNotAProblemOfTheExpression(t *testing.T) {
	t.Parallel()
	_, err := fake(t, nil).Check(t.Context(), Use{Where: "here", Expr: "nonsense(a)"})
	require.ErrorContains(t, err, "unknown function")
}

func TestRulesThatFail(t *testing.T) {
	t.Parallel()
	uses, problems := Rules([]Rule{
		{Name: "r", Query: "a", Type: "recording", Health: "ok"},
		{Name: "A", Query: "b", Type: "alerting", Health: "err", LastError: "many-to-many", Annotations: map[string]string{"summary": "s"}},
	})
	require.Equal(t, []string{"rule A: health err many-to-many"}, problems)
	require.Equal(t, []Use{{Where: "rule r", Expr: "a"}, {Where: "alert A", Expr: "b", Texts: []string{"s"}}}, uses)
}

func TestSubstitution(t *testing.T) {
	t.Parallel()
	q := Query{Expr: `rate(a{i=~"$instance",j="${job:regex}"}[$__rate_interval])`}
	require.Equal(t, `rate(a{i=~".*",j=".*"}[1m])`, q.Substituted())
}
