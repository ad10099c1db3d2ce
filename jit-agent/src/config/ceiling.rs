//! `[ceiling]`: the most that a pushed policy may ask for.

use jit_common::Family;
use jit_proto::{
    toml_value::{duration, width},
    wrong::Wrongs,
};

use crate::{config::raw, rules::ceiling::Ceiling};

/// Checks a `[ceiling]`. `signing` is the number of keys that sign policies.
pub(super) fn ceiling(raw: raw::Ceiling, signing: usize, all: &mut Wrongs) -> Ceiling {
    let at = |what: String| format!("[ceiling] {what}");
    let raw::Ceiling {
        arm,
        disarm,
        sources,
        widest_v4,
        widest_v6,
        max_duration,
        approvals,
        policy_approvals,
        observe,
        drain,
        forwarded,
        exemptions,
    } = raw;
    let mut wrongs = Wrongs::default();
    let policy_approvals = policy_approvals.map_or(1, usize::from);
    if policy_approvals == 0 || policy_approvals > signing {
        let what = format!(
            "policy_approvals: {policy_approvals} is not from 1 to {signing}, the number of \
             [[signer]] keys with signs = [\"policy\"]"
        );
        wrongs.add("policy_approvals", at(what));
    }
    if approvals == Some(0) {
        let what = "approvals: 0 would let a port open without a signature";
        wrongs.add("approvals", at(what.into()));
    }
    let max_duration = max_duration.map(|text| duration("max_duration", &text)).transpose();
    let widest_v4 = width("widest_v4", widest_v4, Family::V4).map_err(at);
    let widest_v6 = width("widest_v6", widest_v6, Family::V6).map_err(at);
    let ceiling = Ceiling {
        approvals: approvals.map(usize::from),
        arm: wrongs.each("arm", &arm, at),
        disarm: wrongs.each("disarm", &disarm, at),
        drain,
        exemptions,
        forwarded,
        max_duration: wrongs.or("max_duration", max_duration.map_err(at), None),
        observe,
        policy_approvals,
        sources: wrongs.each("sources", &sources, at),
        widest_v4: wrongs.or("widest_v4", widest_v4, None),
        widest_v6: wrongs.or("widest_v6", widest_v6, None),
    };
    all.add_below("ceiling", wrongs);
    ceiling
}
