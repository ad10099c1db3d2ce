-- What a host should hold now, among all that it ever got.
CREATE INDEX delivery_until ON delivery (host, until_ms);
