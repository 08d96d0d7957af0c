package redstream

import "time"

// Postpone gives entries up for now, as Retry does, for a reason that says
// nothing against them: the delivery that ends so is not counted, and an entry
// may be postponed as often as it takes without being parked as poison. After
// a restart or a claim the count goes on from where it is in Redis.
func (cons *Consumer) Postpone(d time.Duration, ds ...Delivery) {
	uncounted := make([]Delivery, len(ds))
	for i, e := range ds {
		e.Deliveries = max(e.Deliveries-1, 0) // the next delivery adds one again
		uncounted[i] = e
	}
	cons.Retry(d, uncounted...)
}
