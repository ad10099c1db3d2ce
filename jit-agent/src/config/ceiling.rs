//! `[ceiling]`: the most that a pushed policy may ask for.

use jit_common::Family;
use jit_proto::toml_value::{duration, width};

use crate::{
    config::{raw, value::each},
    rules::ceiling::Ceiling,
};

/// Checks a `[ceiling]`. `signing` is the number of keys that sign policies.
pub(super) fn ceiling(raw: raw::Ceiling, signing: usize) -> Result<Ceiling, String> {
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
    let policy_approvals = policy_approvals.map_or(1, usize::from);
    if policy_approvals == 0 || policy_approvals > signing {
        return Err(at(format!(
            "policy_approvals: {policy_approvals} is not from 1 to {signing}, the number of \
             [[signer]] keys with signs = [\"policy\"]"
        )));
    }
    if approvals == Some(0) {
        return Err(at("approvals: 0 would let a port open without a signature".into()));
    }
    Ok(Ceiling {
        approvals: approvals.map(usize::from),
        arm: each("arm", &arm).map_err(at)?,
        disarm: each("disarm", &disarm).map_err(at)?,
        drain,
        exemptions,
        forwarded,
        max_duration: max_duration
            .map(|text| duration("max_duration", &text))
            .transpose()
            .map_err(at)?,
        observe,
        policy_approvals,
        sources: each("sources", &sources).map_err(at)?,
        widest_v4: width("widest_v4", widest_v4, Family::V4).map_err(at)?,
        widest_v6: width("widest_v6", widest_v6, Family::V6).map_err(at)?,
    })
}
