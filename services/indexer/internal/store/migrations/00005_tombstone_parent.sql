-- A gate that comes late finds the replies below those that are deleted.
CREATE INDEX tombstone_parent_idx ON tombstone (parent) WHERE parent <> '';
