package testkit

import "github.com/redis/rueidis"

// RedisConn is a plain client, as RedisClient returns it.
type RedisConn = rueidis.Client

// IsRedisNil says whether a key or field that was asked for is not there.
func IsRedisNil(err error) bool { return rueidis.IsRedisNil(err) }
