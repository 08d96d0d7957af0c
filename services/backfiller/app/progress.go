package app

import (
	"encoding/json"
	"net/http"

	"sluice/services/backfiller/internal/backfill"
)

// progressHandler serves how far the backfill has come, as JSON.
func progressHandler(b *backfill.Backfiller) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(b.Progress()) // the reader is gone; nothing to do
	})
}
