-- Deletions of records that no other is judged by are forgotten after a while.
ALTER TABLE tombstone ADD COLUMN written timestamptz NOT NULL DEFAULT now();
CREATE INDEX tombstone_written_idx ON tombstone (written) WHERE split_part(uri, '/', 4) <> 'app.bsky.feed.post';
