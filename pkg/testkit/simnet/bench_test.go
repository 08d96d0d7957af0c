package simnet

import (
	"testing"

	"github.com/gorilla/websocket"

	"sluice/pkg/testkit/world"
)

// BenchmarkStream is the replay of a world over a socket to a reader that only
// reads; an operation is a frame.
func BenchmarkStream(b *testing.B) {
	n := Start(b, Options{World: world.Options{Seed: 1, Accounts: 200, Records: 20_000}})
	frames := n.World.Len()
	b.ResetTimer()
	var bytes int64
	for left := b.N; left > 0; {
		conn, res, err := websocket.DefaultDialer.Dial(n.RelayHost+"/xrpc/com.atproto.sync.subscribeRepos?cursor=0", nil)
		if err != nil {
			b.Fatal(err)
		}
		_ = res.Body.Close()
		for i := 0; i < frames && left > 0; i++ {
			_, data, err := conn.ReadMessage()
			if err != nil {
				b.Fatal(err)
			}
			bytes += int64(len(data))
			left--
		}
		_ = conn.Close()
	}
	b.SetBytes(bytes / int64(b.N))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}
