package app

import (
	"context"
	"fmt"
	"time"

	"sluice/pkg/atproto"
)

// identityCache is the name of the cache of identities that the services share.
const identityCache = "identity"

// directory resolves DIDs and handles, with the identities that the services
// have cached.
func (t *tool) directory(ctx context.Context) (*atproto.Directory, error) {
	if t.dir != nil {
		return t.dir, nil
	}
	redis, err := t.client(ctx)
	if err != nil {
		return nil, err
	}
	agent := "sluice-streamctl/" + t.version
	client, err := atproto.NewHTTPClient(atproto.HTTPConfig{
		AllowPrivate: t.settings.PrivateNetwork, Timeout: 10 * time.Second, MaxBody: 512 << 10, UserAgent: agent,
	})
	if err != nil {
		return nil, fmt.Errorf("ALLOW_PRIVATE_NETWORK: %w", err)
	}
	t.dir, err = atproto.NewDirectory(atproto.DirectoryConfig{
		PLCURL: t.settings.PLCURL, HandleResolverURL: t.settings.HandleResolver, Client: client,
		Cache: redis.NewCache(identityCache, t.settings.Identities), Size: 10_000,
	})
	if err != nil {
		return nil, fmt.Errorf("PLC_URL: %w", err)
	}
	return t.dir, nil
}
