package world

import "testing"

// BenchmarkGenerate makes a world; an operation is a record.
func BenchmarkGenerate(b *testing.B) {
	w, err := Generate(Options{Seed: 1, Accounts: max(20, b.N/100), Records: b.N})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(w.Len()), "frames")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
