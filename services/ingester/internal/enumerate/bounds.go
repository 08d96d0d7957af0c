package enumerate

import "fmt"

// bounds counts pages, so that a listing without end is left.
type bounds struct {
	pages int
	idle  int // in a row, without anything new
}

// page takes note of a page with so many new rows.
func (b *bounds) page(rows int) error {
	b.pages++
	b.idle++
	if rows > 0 {
		b.idle = 0
	}
	switch {
	case b.idle >= maxIdlePages:
		return fmt.Errorf("%d pages in a row bring nothing new", b.idle)
	case b.pages >= maxPages:
		return fmt.Errorf("no end after %d pages", b.pages)
	}
	return nil
}
