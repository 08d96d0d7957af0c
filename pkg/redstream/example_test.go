package redstream_test

import (
	"context"
	"fmt"
	"os"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

// Example writes three orders, reads them, parks the one that makes no sense,
// and trims the stream to nothing.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	url := exampleRedis() // for example redis://localhost:6379
	client, err := redstream.Open(ctx, redstream.Config{URL: url, KeyPrefix: "example:"}, nil, nil)
	check(err)
	defer client.Close()

	gate := client.NewGate(redstream.GateConfig{Stream: "orders", High: 100_000})
	check(gate.Wait(ctx))
	writer, err := client.NewWriter(redstream.WriterConfig{Stream: "orders"})
	check(err)
	defer writer.Close()
	order := func(seq int64, text string) redstream.Item {
		return redstream.Item{Seq: seq, Fields: []redstream.Field{{Name: "order", Value: text}}}
	}
	_, err = writer.AppendSeq(ctx, "orders:cursor:shop", []redstream.Item{order(1, "tea"), order(2, "?"), order(3, "milk")}, 3)
	check(err)

	consumer, err := client.NewConsumer(redstream.ConsumerConfig{Group: "kitchen", Consumer: "cook1", Streams: []string{"orders"}})
	check(err)
	check(consumer.Run(ctx, func(ctx context.Context, batch []redstream.Delivery) error {
		for _, d := range batch {
			text, _ := d.Get("order")
			if text == "?" {
				check(consumer.Park(ctx, d, "unreadable", nil))
				continue
			}
			fmt.Println("served", text)
			consumer.Ack(d) // only when its effect is durable
		}
		stop() // the example ends here; a service reads until SIGTERM
		return nil
	}))
	ctx = context.Background()
	check(consumer.Close(ctx))

	trimmed, _, err := client.Trim(ctx, "orders", "kitchen") // a service runs a Trimmer
	check(err)
	dead, err := client.DeadLetters("orders", "").Reasons(ctx)
	check(err)
	fmt.Println("trimmed", trimmed, "parked", dead)
	// Output:
	// served tea
	// served milk
	// trimmed 3 parked map[unreadable:1]
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// exampleRedis is a Redis without keys of an earlier run.
func exampleRedis() string {
	if url := os.Getenv("EXAMPLE_REDIS_URL"); url != "" {
		return url
	}
	url, err := testkit.SharedRedis()
	check(err)
	raw, err := testkit.RedisClient(url)
	check(err)
	defer raw.Close()
	for _, key := range []string{"example:orders", "example:orders_dlq", "example:orders:cursor:shop"} {
		check(raw.Do(context.Background(), raw.B().Del().Key(key).Build()).Error())
	}
	return url
}
