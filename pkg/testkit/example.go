package testkit

// SharedRedis returns the URL of the Redis that the tests of this binary
// share, for an example, which has no testing.TB. The example removes its keys.
func SharedRedis() (string, error) { return sharedRedis() }
