package redstream

import "strings"

// dlqSuffix makes the name of the dead letters of a stream.
const dlqSuffix = "_dlq"

// keys makes the names in Redis. On a cluster, all keys of one stream carry
// the stream as their hash tag, so that one script may change them together;
// elsewhere they are the plain names.
type keys struct {
	prefix  string
	cluster bool
}

// stream is the key of a stream.
func (k keys) stream(name string) string { return k.prefix + name }

// of is the key of something that belongs to a stream: name + suffix.
func (k keys) of(stream, suffix string) string {
	name := k.prefix + stream
	if !k.cluster || tagged(name) {
		return name + suffix
	}
	return "{" + name + "}" + suffix
}

// cursor is the key of a cursor given as "<stream>:cursor:<host>", or of any
// other key given as "<stream>:<rest>".
func (k keys) cursor(key string) string {
	i := strings.Index(key, ":cursor:")
	if i < 0 {
		i = strings.IndexByte(key, ':')
	}
	if i < 0 {
		return k.prefix + key
	}
	return k.of(key[:i], key[i:])
}

// under is the key given by its full name, which belongs to stream.
func (k keys) under(stream, key string) string {
	if rest, ok := strings.CutPrefix(key, stream); ok {
		return k.of(stream, rest)
	}
	return k.prefix + key
}

// heartbeat is the key that lives while a consumer does.
func (k keys) heartbeat(stream, group, consumer string) string {
	return k.of(stream, ":hb:"+group+":"+consumer)
}

// tag is the part of a key that decides its slot.
func tag(key string) string {
	open := strings.IndexByte(key, '{')
	if open < 0 {
		return key
	}
	length := strings.IndexByte(key[open+1:], '}')
	if length <= 0 {
		return key
	}
	return key[open+1 : open+1+length]
}

func tagged(key string) bool { return tag(key) != key }
