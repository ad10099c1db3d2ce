//! A section on the wire: `jit.v1.PolicyPort`.

use std::time::Duration;

use jit_common::Family;

use super::{DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6, Exemption, PortSection};
use crate::{PortRange, Sessions, SourcePrefix, WallTime, prefix::bits, text, v1};

/// Most sources of one section.
const MAX_SOURCES: usize = 256;

impl TryFrom<&v1::PolicyPort> for PortSection {
    type Error = String;

    fn try_from(message: &v1::PolicyPort) -> Result<Self, String> {
        let v1::PolicyPort {
            range,
            mode,
            sources,
            widest_v4,
            widest_v6,
            max_duration_ms,
            approvals,
            sessions,
            terminates,
            exemptions,
        } = message;
        let range = range.as_ref().ok_or("ports: a section has no range")?;
        let range = PortRange::try_from(range).map_err(|error| format!("ports: {error}"))?;
        let at = |what: String| format!("{range}: {what}");
        Ok(Self {
            range,
            observe: observes(*mode).map_err(at)?,
            sources: check_sources(sources).map_err(at)?,
            widest_v4: width("widest_v4", *widest_v4, Family::V4).map_err(at)?,
            widest_v6: width("widest_v6", *widest_v6, Family::V6).map_err(at)?,
            max_duration: check_duration(*max_duration_ms).map_err(at)?,
            approvals: usize::try_from(*approvals)
                .ok()
                .filter(|approvals| *approvals > 0)
                .ok_or_else(|| at("approvals is 0".into()))?,
            sessions: check_sessions(*sessions).map_err(at)?,
            forwarded: is_forwarded(*terminates).map_err(at)?,
            exemptions: exemptions
                .iter()
                .map(Exemption::try_from)
                .collect::<Result<_, _>>()
                .map_err(|error| at(format!("exemptions: {error}")))?,
        })
    }
}

fn check_sources(sources: &[v1::Source]) -> Result<Vec<SourcePrefix>, String> {
    match sources.len() {
        0 => Err("sources is empty".into()),
        count if count > MAX_SOURCES => Err(format!("{count} sources; at most {MAX_SOURCES}")),
        _ => sources
            .iter()
            .map(|source| {
                SourcePrefix::try_from(source).map_err(|error| format!("sources: {error}"))
            })
            .collect(),
    }
}

/// A prefix length; the family's default where the message has none.
fn width(key: &str, width: Option<u32>, family: Family) -> Result<u8, String> {
    let default = match family {
        Family::V4 => DEFAULT_WIDEST_V4,
        Family::V6 => DEFAULT_WIDEST_V6,
    };
    let Some(width) = width else { return Ok(default) };
    u8::try_from(width)
        .ok()
        .filter(|width| *width <= bits(family))
        .ok_or_else(|| format!("{key}: {width} is more than {}", bits(family)))
}

fn check_duration(millis: i64) -> Result<Duration, String> {
    u64::try_from(millis)
        .ok()
        .filter(|millis| *millis >= 1000 && millis.is_multiple_of(1000))
        .map(Duration::from_millis)
        .ok_or_else(|| "max_duration_ms is not 1000 or more, in whole seconds".into())
}

fn observes(mode: i32) -> Result<bool, String> {
    match v1::Mode::try_from(mode) {
        Ok(v1::Mode::Enforce) => Ok(false),
        Ok(v1::Mode::Observe) => Ok(true),
        Ok(v1::Mode::Unspecified) | Err(_) => Err(format!("mode: unknown value {mode}")),
    }
}

fn check_sessions(sessions: i32) -> Result<Sessions, String> {
    match v1::Sessions::try_from(sessions) {
        Ok(v1::Sessions::Cut) => Ok(Sessions::Cut),
        Ok(v1::Sessions::Drain) => Ok(Sessions::Drain),
        Ok(v1::Sessions::Unspecified) | Err(_) => {
            Err(format!("sessions: unknown value {sessions}"))
        }
    }
}

fn is_forwarded(terminates: i32) -> Result<bool, String> {
    match v1::Terminates::try_from(terminates) {
        Ok(v1::Terminates::Forwarded) => Ok(true),
        Ok(v1::Terminates::Host) => Ok(false),
        Ok(v1::Terminates::Unspecified) | Err(_) => {
            Err(format!("terminates: unknown value {terminates}"))
        }
    }
}

impl TryFrom<&v1::Exemption> for Exemption {
    type Error = String;

    fn try_from(message: &v1::Exemption) -> Result<Self, String> {
        let v1::Exemption { source, reason, owner, until_ms } = message;
        let source = source.as_ref().ok_or("source is missing")?;
        let source = SourcePrefix::try_from(source).map_err(|error| error.to_string())?;
        text::check("reason", reason, text::MAX_NAME_BYTES)?;
        text::check("owner", owner, text::MAX_NAME_BYTES)?;
        if *until_ms < 0 {
            return Err("until_ms is negative".into());
        }
        let until = (*until_ms > 0).then_some(WallTime(*until_ms));
        Ok(Self { source, reason: reason.clone(), owner: owner.clone(), until })
    }
}

impl From<&PortSection> for v1::PolicyPort {
    fn from(section: &PortSection) -> Self {
        let PortSection {
            range,
            observe,
            sources,
            widest_v4,
            widest_v6,
            max_duration,
            approvals,
            sessions,
            forwarded,
            exemptions,
        } = section;
        Self {
            range: Some(v1::PortRange::from(*range)),
            mode: if *observe { v1::Mode::Observe } else { v1::Mode::Enforce }.into(),
            sources: sources.iter().map(v1::Source::from).collect(),
            widest_v4: Some(u32::from(*widest_v4)),
            widest_v6: Some(u32::from(*widest_v6)),
            max_duration_ms: i64::try_from(max_duration.as_millis()).unwrap_or(i64::MAX),
            approvals: u32::try_from(*approvals).unwrap_or(u32::MAX),
            sessions: match sessions {
                Sessions::Cut => v1::Sessions::Cut,
                Sessions::Drain => v1::Sessions::Drain,
            }
            .into(),
            terminates: if *forwarded { v1::Terminates::Forwarded } else { v1::Terminates::Host }
                .into(),
            exemptions: exemptions.iter().map(v1::Exemption::from).collect(),
        }
    }
}

impl From<&Exemption> for v1::Exemption {
    fn from(exemption: &Exemption) -> Self {
        let Exemption { source, reason, owner, until } = exemption;
        Self {
            source: Some(source.into()),
            reason: reason.clone(),
            owner: owner.clone(),
            until_ms: until.map_or(0, |until| until.0),
        }
    }
}
