-- Fetched repositories whose end was read from a stream: what they did not have
-- is deleted once everything before the entry is finished. ms and seq are the
-- two parts of its id.
CREATE TABLE sweep (
  stream text COLLATE "C" NOT NULL,
  ms bigint NOT NULL,
  seq bigint NOT NULL,
  did text COLLATE "C" NOT NULL,
  rev text COLLATE "C" NOT NULL,
  PRIMARY KEY (stream, ms, seq)
);
