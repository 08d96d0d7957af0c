-- A row whose judgement failed is put off, so that it does not block the others.
ALTER TABLE recheck ADD COLUMN attempts integer NOT NULL DEFAULT 0;
ALTER TABLE recheck ADD COLUMN not_before timestamptz NOT NULL DEFAULT '-infinity';
