//! The loaded programs on the running kernel, without the agent: single frames, real sessions, raw
//! frames over veth, and a million generated frames against the host's decision.

mod cases;
mod comparison;
mod fixture;
mod frame_table;
mod generate;
mod grants;
mod sessions;
mod verifier;
mod wire;
