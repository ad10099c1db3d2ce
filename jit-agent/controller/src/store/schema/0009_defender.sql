-- Policies that were put over Defender's API. `key`: subscription, resource group, location and name, in
-- small letters. `revision` rises with each change.
CREATE TABLE defender_policy (
    id TEXT NOT NULL PRIMARY KEY,
    key TEXT NOT NULL,
    subscription TEXT NOT NULL,
    resource_group TEXT NOT NULL,
    location TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    revision BIGINT NOT NULL,
    changed_by TEXT NOT NULL,
    changed_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX defender_policy_key ON defender_policy (key);

-- Its machines, in the order in which they were put, and the host that each is.
CREATE TABLE defender_machine (
    policy TEXT NOT NULL REFERENCES defender_policy (id),
    place BIGINT NOT NULL,
    resource TEXT NOT NULL,
    host TEXT NOT NULL,
    ports_json TEXT NOT NULL,
    PRIMARY KEY (policy, place)
);
CREATE INDEX defender_machine_host ON defender_machine (host, policy);

-- What a host should protect by all of these policies, and how that comes to it. `rollout`: that which
-- brings it; empty: none has begun. `brought`: what was brought to it last, or refused by it; `had`: what
-- it had of these policies then; `replaced`: what stood at these ports before them. All three are TOML.
CREATE TABLE defender_host (
    host TEXT NOT NULL PRIMARY KEY,
    wanted_json TEXT NOT NULL,
    author TEXT NOT NULL,
    why TEXT NOT NULL,
    rollout TEXT NOT NULL,
    trouble TEXT NOT NULL,
    brought TEXT NOT NULL,
    had TEXT NOT NULL,
    replaced TEXT NOT NULL,
    revision BIGINT NOT NULL
);
CREATE INDEX defender_host_rollout ON defender_host (rollout, host);

-- Requests that were submitted by one of these policies. The row is there before the request.
CREATE TABLE defender_request (
    requester TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    policy TEXT NOT NULL REFERENCES defender_policy (id),
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (requester, idempotency_key)
);
CREATE INDEX defender_request_policy ON defender_request (policy, at_ms);

-- Who sees a policy follows from its rollouts.
CREATE INDEX rollout_policy ON rollout (policy);

-- The turn to begin a rollout: one row, which a change locks. `waiting_ms`: when an administrator could not
-- begin one because another went on; 0: none waits. Policies of Defender wait for him.
CREATE TABLE rollout_turn (
    id BIGINT NOT NULL PRIMARY KEY,
    waiting_ms BIGINT NOT NULL
);
