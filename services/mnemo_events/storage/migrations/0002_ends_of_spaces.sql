-- Where a space has ended, so that nothing is appended of it any more.
CREATE INDEX log_ends_of_spaces ON events.log (space_uid) WHERE type = 'space.erased';
