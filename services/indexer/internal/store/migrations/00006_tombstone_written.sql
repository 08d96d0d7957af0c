-- Deletions of records that no other is judged by are forgotten after a while:
-- when each was written, and up to when they have been.
ALTER TABLE tombstone ADD COLUMN written timestamptz NOT NULL DEFAULT now();
CREATE INDEX tombstone_written_idx ON tombstone USING brin (written) WITH (pages_per_range = 32, autosummarize = on);
CREATE TABLE forgotten (upto timestamptz NOT NULL);
INSERT INTO forgotten VALUES (now());
