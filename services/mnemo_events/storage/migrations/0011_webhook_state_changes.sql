-- How often the state of a webhook was changed: what was decided for one state is not applied to a later one.
ALTER TABLE events.webhooks ADD COLUMN state_changes bigint NOT NULL DEFAULT 0;
