-- What the indexer needs for itself, in a schema of its own beside the AppView's.
-- Revisions are TIDs: their order as bytes is their order in time.

-- The newest deletion of a record. was: the record is known to have existed.
-- born, root and parent are of a post: what its replies are judged by.
CREATE TABLE tombstone (
  uri text COLLATE "C" PRIMARY KEY,
  rev text COLLATE "C" NOT NULL,
  at text COLLATE "C" NOT NULL,
  was boolean NOT NULL,
  born text COLLATE "C" NOT NULL,
  root text NOT NULL,
  parent text NOT NULL
);

-- What account events said: the newest status, and the newest deletion.
CREATE TABLE account (
  did text COLLATE "C" PRIMARY KEY,
  status text,
  status_at text COLLATE "C" NOT NULL DEFAULT '',
  deleted_rev text COLLATE "C" NOT NULL DEFAULT '',
  deleted_at text COLLATE "C" NOT NULL DEFAULT ''
);

-- Changes of counts that have not been folded yet. Append only: a famous
-- account is no hot row.
CREATE TABLE count_delta (
  kind smallint NOT NULL,
  key text NOT NULL,
  n integer NOT NULL
);

-- Facts between repositories to judge again once every transaction that ran
-- beside the writing one has ended.
CREATE TABLE recheck (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  uri text NOT NULL,
  what smallint NOT NULL,
  rev text COLLATE "C" NOT NULL,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);

-- Posts that were judged without something: judge them again when it arrives.
CREATE TABLE waiting (
  key text COLLATE "C" NOT NULL,
  uri text COLLATE "C" NOT NULL,
  PRIMARY KEY (key, uri)
);
CREATE INDEX waiting_uri_idx ON waiting (uri);

-- Handles to look up, one row for every event that asks for it.
CREATE TABLE handle_check (
  did text COLLATE "C" NOT NULL,
  at text COLLATE "C" NOT NULL,
  force boolean NOT NULL,
  fresh boolean NOT NULL,
  attempts integer NOT NULL DEFAULT 0,
  not_before timestamptz NOT NULL DEFAULT '-infinity',
  PRIMARY KEY (did, at)
);
CREATE INDEX handle_check_due_idx ON handle_check (not_before);

-- When the handle of an account was looked up last, in the time of events.
CREATE TABLE handle_seen (
  did text COLLATE "C" PRIMARY KEY,
  at text COLLATE "C" NOT NULL
);
