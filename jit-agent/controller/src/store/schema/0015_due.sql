-- Certificates of hosts that end soon are looked for all the time.
CREATE INDEX certificate_end ON certificate (not_after_ms);
