package promql

import (
	"fmt"
	"slices"
	"strings"
)

// Selector is one choice of series, without its range and offset.
type Selector struct {
	Metric string
	Text   string
	at     int
}

// Aggregation is one aggregating call with the labels that it keeps.
type Aggregation struct {
	By       []string
	from, to int
}

// Matching is one "on (labels)" between two operands.
type Matching struct {
	On []string
	// The operands lie in these tokens.
	from, at, to int
}

// Expr is what a PromQL expression refers to.
type Expr struct {
	Selectors    []Selector
	Aggregations []Aggregation
	Matchings    []Matching
	// quantile: the label "le" does not survive.
	quantile bool
}

// Within lists the selectors inside an aggregation.
func (e *Expr) Within(a Aggregation) []Selector { return e.between(a.from, a.to) }

// Inner lists the aggregations directly or indirectly inside another.
func (e *Expr) Inner(a Aggregation) []Aggregation {
	var in []Aggregation
	for _, b := range e.Aggregations {
		if b.from > a.from && b.to <= a.to {
			in = append(in, b)
		}
	}
	return in
}

// Sides lists the selectors before and after a matching.
func (e *Expr) Sides(m Matching) (left, right []Selector) {
	return e.between(m.from, m.at), e.between(m.at, m.to)
}

func (e *Expr) between(from, to int) []Selector {
	var in []Selector
	for _, s := range e.Selectors {
		if s.at >= from && s.at < to {
			in = append(in, s)
		}
	}
	return in
}

// Output tells which labels the result has: those that the first aggregation
// keeps, or, where a selector comes first, those of its series.
func (e *Expr) Output() (labels []string, of *Selector) {
	if len(e.Aggregations) > 0 && (len(e.Selectors) == 0 || e.Aggregations[0].from < e.Selectors[0].at) {
		kept := slices.Clone(e.Aggregations[0].By)
		if e.quantile {
			kept = slices.DeleteFunc(kept, func(l string) bool { return l == "le" })
		}
		return kept, nil
	}
	if len(e.Selectors) == 0 {
		return nil, nil
	}
	return nil, &e.Selectors[0]
}

var aggregators = []string{
	"sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile",
}

var operators = []string{"and", "or", "unless", "bool", "offset", "atan2", "start", "end", "inf", "nan"}

// Parse finds the selectors, aggregations and matchings of an expression.
func Parse(expr string) (*Expr, error) {
	tokens, err := lex(expr)
	if err != nil {
		return nil, err
	}
	e := &Expr{}
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch {
		case t.kind == punctuation && t.value == "[":
			i = t.mate // a range
		case t.kind == punctuation && t.value == "{":
			return nil, fmt.Errorf("%q: a selector without a metric", expr)
		case t.kind != word || slices.Contains(operators, strings.ToLower(t.value)):
		case slices.Contains(aggregators, t.value):
			i, err = e.aggregation(tokens, i)
		case slices.Contains([]string{"on", "ignoring", "group_left", "group_right", "by"}, t.value):
			i, err = e.matching(tokens, i)
		case is(tokens, i+1, "("):
			e.quantile = e.quantile || t.value == "histogram_quantile"
		default:
			s := Selector{Metric: t.value, Text: t.value, at: i}
			if is(tokens, i+1, "{") {
				i = tokens[i+1].mate
				s.Text = expr[t.from:tokens[i].to]
			}
			e.Selectors = append(e.Selectors, s)
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", expr, err)
		}
	}
	return e, nil
}

func is(tokens []token, at int, punct string) bool {
	return at < len(tokens) && tokens[at].kind == punctuation && tokens[at].value == punct
}

// aggregation notes the call that begins at token i, and returns the last token
// before its arguments.
func (e *Expr) aggregation(tokens []token, i int) (int, error) {
	a := Aggregation{from: i}
	at := i + 1
	by, at, err := grouping(tokens, at)
	if err != nil {
		return 0, err
	}
	if !is(tokens, at, "(") {
		return 0, fmt.Errorf("%s has no arguments", tokens[i].value)
	}
	a.to = tokens[at].mate
	after, _, err := grouping(tokens, a.to+1)
	if err != nil {
		return 0, err
	}
	a.By = append(by, after...)
	e.Aggregations = append(e.Aggregations, a)
	return at, nil
}

// grouping reads "by (labels)", which may be absent.
func grouping(tokens []token, at int) ([]string, int, error) {
	if at >= len(tokens) || tokens[at].kind != word {
		return nil, at, nil
	}
	switch tokens[at].value {
	case "by":
		labels, end, err := list(tokens, at+1)
		return labels, end + 1, err
	case "without":
		return nil, at, fmt.Errorf("without: name the labels that stay (by), so that they can be checked")
	}
	return nil, at, nil
}

// matching reads the modifiers of a binary operator, and passes over a grouping
// that an aggregation has read already.
func (e *Expr) matching(tokens []token, i int) (int, error) {
	switch tokens[i].value {
	case "ignoring":
		return i, fmt.Errorf("ignoring: name the labels that match (on), so that they can be checked")
	case "group_left", "group_right", "by":
		if !is(tokens, i+1, "(") {
			return i, nil
		}
		_, end, err := list(tokens, i+1)
		return end, err
	}
	labels, end, err := list(tokens, i+1)
	if err != nil {
		return i, err
	}
	from, to := enclosing(tokens, i)
	e.Matchings = append(e.Matchings, Matching{On: labels, from: from, at: i, to: to})
	return end, nil
}

// enclosing is the range of tokens of the brackets around token i.
func enclosing(tokens []token, i int) (from, to int) {
	for at := i - 1; at >= 0; at-- {
		t := tokens[at]
		if t.kind == punctuation && strings.Contains("([{", t.value) && t.mate > i {
			return at, t.mate
		}
	}
	return 0, len(tokens)
}

// list reads "(a, b)" and returns the index of its last token.
func list(tokens []token, at int) (labels []string, end int, err error) {
	if !is(tokens, at, "(") {
		return nil, at, fmt.Errorf("a list of labels is missing")
	}
	for i := at + 1; i < tokens[at].mate; i++ {
		if tokens[i].kind == word {
			labels = append(labels, tokens[i].value)
		}
	}
	return labels, tokens[at].mate, nil
}
