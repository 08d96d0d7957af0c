package redstream

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

const (
	// connTimeout bounds the dial and every answer that is not a blocking read,
	// unless the URL says write_timeout.
	connTimeout = 5 * time.Second
	// poolSize bounds the connections of blocking reads, one per stream read.
	poolSize = 64
)

// address is what a URL says about where Redis is.
type address struct {
	option  rueidis.ClientOption
	cluster bool
	shown   string // the URL without its password
}

// parseURL reads the forms of Config.URL.
func parseURL(raw string) (address, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return address{}, fault.Fatalf("redis url: %w", err)
	}
	a := address{shown: u.Redacted()}
	q := u.Query()
	scheme, kind, _ := strings.Cut(u.Scheme, "+")
	switch kind {
	case "":
	case "cluster":
		q.Set("cluster", "true")
	case "sentinel":
		if q.Get("master_set") == "" {
			return address{}, fault.Fatalf("redis url %s: sentinel needs ?master_set=NAME", a.shown)
		}
	default:
		return address{}, fault.Fatalf("redis url %s: unknown scheme %q: want redis://host:port, rediss://, redis+sentinel:// or redis+cluster://", a.shown, u.Scheme)
	}
	u.Scheme = scheme
	for _, more := range splitHosts(u) {
		q.Add("addr", more)
	}
	u.RawQuery = q.Encode()
	a.option, err = rueidis.ParseURL(u.String())
	if err != nil {
		return address{}, fault.Fatalf("redis url %s: %w", a.shown, err)
	}
	a.cluster = q.Get("cluster") == "true" || q.Get("cluster") == "1"
	if err := tlsFiles(&a.option, q); err != nil {
		return address{}, fault.Fatalf("redis url %s: %w", a.shown, err)
	}
	sentinel(&a.option, q)
	a.option.DisableCache, a.option.DisableRetry = true, true
	a.option.ForceSingleClient = !a.cluster && a.option.Sentinel.MasterSet == ""
	a.option.BlockingPoolSize, a.option.BlockingPoolCleanup = poolSize, time.Minute
	if a.option.ConnWriteTimeout == 0 {
		a.option.ConnWriteTimeout = connTimeout
	}
	return a, nil
}

// splitHosts takes all but the first of "h1:p1,h2:p2" out of u.Host.
func splitHosts(u *url.URL) []string {
	hosts := strings.Split(u.Host, ",")
	u.Host = hosts[0]
	return hosts[1:]
}

func sentinel(opt *rueidis.ClientOption, q url.Values) {
	if opt.Sentinel.MasterSet == "" {
		return
	}
	opt.Sentinel.Username = q.Get("sentinel_user")
	opt.Sentinel.Password = q.Get("sentinel_password")
	opt.Sentinel.TLSConfig = opt.TLSConfig
}

// tlsFiles applies ca_file, cert_file and key_file.
func tlsFiles(opt *rueidis.ClientOption, q url.Values) error {
	ca, cert, key := q.Get("ca_file"), q.Get("cert_file"), q.Get("key_file")
	if opt.TLSConfig == nil {
		if ca != "" || cert != "" {
			return fmt.Errorf("ca_file and cert_file need rediss://")
		}
		return nil
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("read ca_file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ca_file %s holds no certificate", ca)
		}
		opt.TLSConfig.RootCAs = pool
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("read cert_file and key_file: %w", err)
		}
		opt.TLSConfig.Certificates = []tls.Certificate{pair}
	}
	return nil
}
