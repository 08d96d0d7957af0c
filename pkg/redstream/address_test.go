package redstream_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/pkg/redstream"
	"sluice/pkg/testkit"
)

// walk takes a client through everything that touches several keys at once.
func walk(t *testing.T, b *bench) {
	t.Helper()
	ctx := t.Context()
	w, err := b.NewWriter(redstream.WriterConfig{Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Append(ctx, items(0, 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.AppendSeq(ctx, "s:cursor:h", items(10, 10), 19); err != nil {
		t.Fatal(err)
	}
	if _, err := w.AppendCAS(ctx, "s:cursor:pages", "", "p1", items(20, 10)); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := b.Cursor(ctx, "s:cursor:h"); v != "19" || !ok || err != nil {
		t.Fatal(v, ok, err)
	}
	q := b.NewDelayed("s:delayed", "s")
	s := newSeen()
	m := join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, func(cons *redstream.Consumer) redstream.Handler {
		return func(ctx context.Context, batch []redstream.Delivery) error {
			for _, d := range batch {
				s.add(d)
				switch v, _ := d.Get("event"); {
				case v == "3" && s.count[v] == 1:
					if err := cons.Park(ctx, d, "bad", nil); err != nil {
						return err
					}
				case v == "4" && s.count[v] == 1:
					if err := q.AddAndAck(ctx, d, "g", d.Fields, time.Now()); err != nil {
						return err
					}
				default:
					cons.Ack(d)
				}
			}
			return nil
		}
	})
	eventually(t, "all handled", 10*time.Second, func() bool { return len(s.missing(0, 30)) == 0 })
	eventually(t, "parked", 5*time.Second, func() bool { n, _ := b.DeadLetters("s", "").Len(ctx); return n == 1 })
	if n, err := b.DeadLetters("s", "").Redrive(ctx, redstream.Filter{}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- q.Run(run) }()
	eventually(t, "both came again", 10*time.Second, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.count["3"] == 2 && s.count["4"] == 2
	})
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := b.NewGate(redstream.GateConfig{Stream: "s", High: 100}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.NewMonitor(redstream.MonitorConfig{Streams: map[string][]string{"s": {"g"}}}).Round(ctx); err != nil {
		t.Fatal(err)
	}
	m.leave()
	if _, _, err := b.Trim(ctx, "s", "g"); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Len(ctx, "s"); n != 0 || err != nil {
		t.Fatal(n, err)
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	server := testkit.StartRedis(t, "--cluster-enabled", "yes")
	raw := benchRaw(t, server.URL)
	raw.must("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	eventually(t, "cluster is up", 10*time.Second, func() bool {
		return strings.Contains(raw.must("CLUSTER", "INFO"), "cluster_state:ok")
	})
	url := strings.Replace(server.URL, "redis://", "redis+cluster://", 1)
	for _, prefix := range []string{"", "p:", "{p}:"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			b := &bench{Client: open(t, url, prefix), t: t, raw: raw.raw, prefix: prefix}
			walk(t, b)
			b.must("FLUSHALL")
			writeLetter(t, b)
			cons := redstream.ConsumerConfig{
				Group: "g", Consumer: "c", Streams: []string{"s"}, DeadLetters: map[string]string{"s": "elsewhere"},
			}
			if _, err := b.NewConsumer(cons); prefix != "{p}:" && !errors.Is(err, redstream.ErrSlot) {
				t.Fatalf("dead letters in another slot: %v", err)
			}
		})
	}
}

// writeLetter parks what was never an entry where the listing finds it.
func writeLetter(t *testing.T, b *bench) {
	t.Helper()
	letters := b.DeadLetters("s", "")
	w, err := letters.Writer()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fields := []redstream.Field{{Name: "frame", Value: "x"}, {Name: "reason", Value: "bad_frame"}}
	if err := w.Append(t.Context(), []redstream.Item{{Fields: fields}}); err != nil {
		t.Fatal(err)
	}
	found, err := letters.List(t.Context(), "", 10)
	if err != nil || len(found) != 1 || found[0].Reason != "bad_frame" {
		t.Fatalf("dead letters: %v, %v", found, err)
	}
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	server := testkit.StartRedis(t)
	port := testkit.FreePort(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %d\ndir %s\nsentinel monitor m 127.0.0.1 %s 1\n", port, dir, testkit.RedisPort(server.URL))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", conf, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	url := fmt.Sprintf("redis+sentinel://127.0.0.1:%d?master_set=m", port)
	eventually(t, "sentinel knows the primary", 10*time.Second, func() bool {
		c, err := redstream.Open(t.Context(), redstream.Config{URL: url}, nil, nil)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	walk(t, &bench{Client: open(t, url, ""), t: t, raw: benchRaw(t, server.URL).raw})
	if _, err := redstream.Open(t.Context(), redstream.Config{URL: "redis+sentinel://127.0.0.1:1"}, nil, nil); err == nil || !strings.Contains(err.Error(), "master_set") {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, cert, key := selfSigned(t, dir)
	tlsPort := testkit.FreePort(t)
	server := testkit.StartRedis(t, "--tls-port", fmt.Sprint(tlsPort), "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", ca, "--tls-auth-clients", "yes")
	url := fmt.Sprintf("rediss://127.0.0.1:%d?ca_file=%s&cert_file=%s&key_file=%s", tlsPort, ca, cert, key)
	walk(t, &bench{Client: open(t, url, ""), t: t, raw: benchRaw(t, server.URL).raw})
	if _, err := redstream.Open(t.Context(), redstream.Config{URL: fmt.Sprintf("rediss://127.0.0.1:%d", tlsPort)}, nil, nil); err == nil {
		t.Fatal("an unknown authority is accepted")
	}
}

func selfSigned(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, cert, key
}
