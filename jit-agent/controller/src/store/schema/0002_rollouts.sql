-- Policies on their way to hosts, in waves. What was signed for a host is kept, so that a restart goes on
-- with the same bytes.
CREATE TABLE policy (
    id TEXT NOT NULL PRIMARY KEY,
    text TEXT NOT NULL,
    author TEXT NOT NULL,
    justification TEXT NOT NULL,
    saved_ms BIGINT NOT NULL
);

CREATE TABLE rollout (
    id TEXT NOT NULL PRIMARY KEY,
    policy TEXT NOT NULL REFERENCES policy (id),
    waves_json TEXT NOT NULL,
    state TEXT NOT NULL,
    why TEXT NOT NULL,
    wave BIGINT NOT NULL,
    wave_since_ms BIGINT NOT NULL,
    confirm_s BIGINT NOT NULL,
    pause_ms BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX rollout_state ON rollout (state, id);

CREATE TABLE rollout_host (
    rollout TEXT NOT NULL REFERENCES rollout (id),
    host TEXT NOT NULL,
    wave BIGINT NOT NULL,
    state TEXT NOT NULL,
    word TEXT NOT NULL,
    detail TEXT NOT NULL,
    version BIGINT NOT NULL,
    payload BLOB NOT NULL,
    envelope BLOB NOT NULL,
    changes TEXT NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (rollout, host)
);
CREATE INDEX rollout_host_wave ON rollout_host (rollout, wave, state);
CREATE INDEX rollout_host_host ON rollout_host (host, rollout);
