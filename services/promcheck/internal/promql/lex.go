// Package promql finds in a PromQL expression what can be wrong without being an
// error: the selectors that may match nothing, and the labels that its
// aggregations and matchings take for granted. That the expression can be
// parsed is for Prometheus to say.
package promql

import (
	"fmt"
	"strings"
)

type kind int

const (
	word kind = iota
	number
	text
	punctuation
)

type token struct {
	kind     kind
	value    string
	from, to int
	// mate is the index of the other bracket of a pair.
	mate int
}

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:"
	digits  = "0123456789"
)

// lex splits an expression into tokens and pairs its brackets.
func lex(expr string) ([]token, error) {
	var tokens []token
	var open []int
	for at := 0; at < len(expr); {
		t, err := next(expr, at)
		if err != nil {
			return nil, err
		}
		at = t.to
		if t.value == "" {
			continue
		}
		if t.kind == punctuation && strings.Contains("([{", t.value) {
			open = append(open, len(tokens))
		}
		if t.kind == punctuation && strings.Contains(")]}", t.value) {
			if len(open) == 0 {
				return nil, fmt.Errorf("%q: %s closes nothing", expr, t.value)
			}
			t.mate = open[len(open)-1]
			tokens[t.mate].mate = len(tokens)
			open = open[:len(open)-1]
		}
		tokens = append(tokens, t)
	}
	if len(open) > 0 {
		return nil, fmt.Errorf("%q: %s is not closed", expr, tokens[open[0]].value)
	}
	return tokens, nil
}

// next reads one token; white space and comments are tokens without a value.
func next(expr string, at int) (token, error) {
	end := at + 1
	switch c := expr[at]; {
	case strings.IndexByte(" \t\r\n", c) >= 0:
		return token{from: at, to: end}, nil
	case c == '#':
		if n := strings.IndexByte(expr[at:], '\n'); n >= 0 {
			return token{from: at, to: at + n}, nil
		}
		return token{from: at, to: len(expr)}, nil
	case strings.IndexByte(letters, c) >= 0:
		end = run(expr, at, letters+digits)
		return token{kind: word, value: expr[at:end], from: at, to: end}, nil
	case strings.IndexByte(digits, c) >= 0:
		end = run(expr, at, letters+digits+".")
		return token{kind: number, value: expr[at:end], from: at, to: end}, nil
	case strings.IndexByte("\"'`", c) >= 0:
		for end < len(expr) && expr[end] != c {
			if expr[end] == '\\' && c != '`' {
				end++
			}
			end++
		}
		if end >= len(expr) {
			return token{}, fmt.Errorf("%q: the string at %d has no end", expr, at)
		}
		return token{kind: text, value: expr[at : end+1], from: at, to: end + 1}, nil
	}
	return token{kind: punctuation, value: expr[at:end], from: at, to: end}, nil
}

// run is the end of the longest run of the given characters.
func run(expr string, at int, of string) int {
	for at < len(expr) && strings.IndexByte(of, expr[at]) >= 0 {
		at++
	}
	return at
}
