package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sample is one measurement.
type sample struct {
	rate float64 // entries per second
	cpu  float64 // CPU of the server in µs per entry
}

// pair is ours beside a ceiling, measured in turns.
type pair struct {
	name, what, against string
	target              float64 // least ratio
	inFile              bool
	ours, ceiling       func(context.Context) (work, error)
	prepare             func(context.Context) error
}

// work is what a side did. took is 0 if all of its time counts.
type work struct {
	n    int
	took time.Duration
}

// row is one line of bench.json.
type row struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Ceiling float64 `json:"ceiling"`
	Ratio   float64 `json:"ratio"`
}

func (b *bench) all(ctx context.Context) error {
	fmt.Fprintf(os.Stdout, "%d entries of %d B, batches of %d, median of %d turns\n\n", b.cfg.entries, b.cfg.size, b.cfg.batch, b.cfg.rounds)
	fmt.Fprintf(os.Stdout, "%-18s %12s %8s   %12s %8s   %6s %7s\n", "", "ours /s", "µs CPU", "ceiling /s", "µs CPU", "ratio", "target")
	var rows []row
	var missed []string
	for _, p := range b.pairs() {
		r, err := b.measure(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if r.Ratio < p.target {
			missed = append(missed, fmt.Sprintf("%s %.2f < %.2f", p.name, r.Ratio, p.target))
		}
		if p.inFile {
			rows = append(rows, r)
		}
	}
	if err := b.flatness(ctx); err != nil {
		return err
	}
	if b.cfg.out != "" {
		if err := merge(b.cfg.out, rows); err != nil {
			return err
		}
	}
	if len(missed) > 0 && b.cfg.requireTargets {
		return errors.New(strings.Join(missed, ", "))
	}
	return nil
}

// measure runs both sides in turns and prints one line.
func (b *bench) measure(ctx context.Context, p pair) (row, error) {
	var ratios, own, top, ownCPU, topCPU []float64
	for range b.cfg.rounds {
		c, err := b.once(ctx, p.prepare, p.ceiling)
		if err != nil {
			return row{}, fmt.Errorf("ceiling: %w", err)
		}
		o, err := b.once(ctx, p.prepare, p.ours)
		if err != nil {
			return row{}, err
		}
		ratios, own, top = append(ratios, o.rate/c.rate), append(own, o.rate), append(top, c.rate)
		ownCPU, topCPU = append(ownCPU, o.cpu), append(topCPU, c.cpu)
	}
	r := row{Name: p.name, Value: round(median(own)), Unit: "entries/s", Ceiling: round(median(top)), Ratio: round(median(ratios))}
	fmt.Fprintf(os.Stdout, "%-18s %12.0f %8.2f   %12.0f %8.2f   %6.2f %7.2f   %s / %s\n", p.name, median(own), median(ownCPU),
		median(top), median(topCPU), r.Ratio, p.target, p.what, p.against)
	return r, nil
}

func (b *bench) once(ctx context.Context, prepare func(context.Context) error, f func(context.Context) (work, error)) (sample, error) {
	if err := b.clear(ctx); err != nil {
		return sample{}, err
	}
	if prepare != nil {
		if err := prepare(ctx); err != nil {
			return sample{}, fmt.Errorf("prepare: %w", err)
		}
	}
	cpu, err := b.serverCPU(ctx)
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	w, err := f(ctx)
	if err != nil {
		return sample{}, err
	}
	if w.took == 0 {
		w.took = time.Since(start)
	}
	after, err := b.serverCPU(ctx)
	if err != nil {
		return sample{}, err
	}
	return sample{rate: float64(w.n) / w.took.Seconds(), cpu: (after - cpu) * 1e6 / float64(w.n)}, nil
}

// clear deletes what earlier measurements left.
func (b *bench) clear(ctx context.Context) error {
	keys, err := b.bare.Do(ctx, b.bare.B().Keys().Pattern("bench:*").Build()).AsStrSlice()
	if err != nil || len(keys) == 0 {
		return err
	}
	return b.bare.Do(ctx, b.bare.B().Del().Key(keys...).Build()).Error()
}

func (b *bench) serverCPU(ctx context.Context) (float64, error) {
	return b.info(ctx, "cpu", "used_cpu_sys", "used_cpu_user")
}

// info sums fields of a section of INFO.
func (b *bench) info(ctx context.Context, section string, names ...string) (float64, error) {
	text, err := b.bare.Do(ctx, b.bare.B().Info().Section(section).Build()).ToString()
	if err != nil {
		return 0, err
	}
	total := 0.0
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if !slices.Contains(names, name) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func round(v float64) float64 { return float64(int64(v*1000+0.5)) / 1000 }

// merge replaces the rows of the same names in a file.
func merge(path string, rows []row) error {
	var all []row
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(old, &all); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	for _, r := range rows {
		all = slices.DeleteFunc(all, func(x row) bool { return x.Name == r.Name })
		all = append(all, r)
	}
	var text strings.Builder
	text.WriteString("[\n")
	for i, r := range all {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		text.WriteString("  " + string(line))
		if i < len(all)-1 {
			text.WriteByte(',')
		}
		text.WriteByte('\n')
	}
	text.WriteString("]\n")
	return os.WriteFile(path, []byte(text.String()), 0o600)
}
