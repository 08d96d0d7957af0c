-- Look-ups that only a fetched repository asked for wait until no other is due.
ALTER TABLE handle_check ADD COLUMN backfill boolean NOT NULL DEFAULT false;
CREATE INDEX handle_check_order_idx ON handle_check (backfill, not_before);
DROP INDEX handle_check_due_idx;
