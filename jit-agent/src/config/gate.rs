//! `[gate]`: which interfaces get programs, and how they are attached.

use std::time::Duration;

use jit_proto::{port_section::Mode, toml_value::duration, wrong::Wrongs};

use crate::config::{interfaces::InterfaceFilter, raw};

/// How long a trial waits for its confirmation where nothing else is said.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(120);
/// The shortest and the longest trial.
pub const TRIALS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(3600)];

/// Which interfaces get programs, and how they are attached.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// Observe mode of the whole gate: packets that would be dropped are counted and pass.
    pub observe: bool,
    /// The interfaces to gate.
    pub interfaces: InterfaceFilter,
    /// The hook to attach the programs through.
    pub hook: HookChoice,
    /// Whether the socket guard also checks look-ups of listening sockets.
    pub socket_guard: bool,
    /// How long a reloaded file that closes something waits for its confirmation; `None`: it needs
    /// none.
    pub confirm_within: Option<Duration>,
}

/// The value of `hook`: how the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookChoice {
    /// The first that works: native XDP, TC, generic XDP; else the socket guard alone.
    Auto,
    /// Only a classifier of a clsact qdisc, also where the kernel has TC links.
    Clsact,
    /// Only generic XDP.
    Generic,
    /// Only native XDP.
    Native,
    /// Only TC: a link, or a classifier where the kernel has no TC links (before Linux 6.6).
    Tc,
}

impl GateConfig {
    /// Checks a `[gate]`.
    pub(super) fn new(raw: raw::Gate, wrongs: &mut Wrongs) -> Self {
        let raw::Gate { mode, interfaces, exclude, hook, socket_guard, confirm_within } = raw;
        let observe = mode.is_some_and(|mode| mode == Mode::Observe);
        let interfaces = InterfaceFilter::new(interfaces, exclude, wrongs);
        let hook = match hook {
            None | Some(raw::Hook::Auto) => HookChoice::Auto,
            Some(raw::Hook::Clsact) => HookChoice::Clsact,
            Some(raw::Hook::Generic) => HookChoice::Generic,
            Some(raw::Hook::Native) => HookChoice::Native,
            Some(raw::Hook::Tc) => HookChoice::Tc,
        };
        let socket_guard = socket_guard.unwrap_or(true);
        let confirm_within = self::confirm_within(confirm_within.as_deref());
        let confirm_within = wrongs.or("gate.confirm_within", confirm_within, None);
        Self { observe, interfaces, hook, socket_guard, confirm_within }
    }
}

fn confirm_within(text: Option<&str>) -> Result<Option<Duration>, String> {
    let key = "[gate] confirm_within";
    let [shortest, longest] = TRIALS;
    match text {
        None => Ok(Some(CONFIRM_WITHIN)),
        Some("off") => Ok(None),
        Some(text) => match duration(key, text)? {
            time if (shortest..=longest).contains(&time) => Ok(Some(time)),
            _ => Err(format!("{key}: {text:?} is not from 10s to 1h, and not \"off\"")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_lasts_two_minutes_unless_the_file_says_another_time_or_off() {
        assert_eq!(confirm_within(None), Ok(Some(CONFIRM_WITHIN)));
        assert_eq!(confirm_within(Some("off")), Ok(None));
        assert_eq!(confirm_within(Some("10s")), Ok(Some(Duration::from_secs(10))));
        assert_eq!(confirm_within(Some("1h")), Ok(Some(Duration::from_secs(3600))));
        for bad in ["9s", "2h", "0s", "soon", ""] {
            assert!(confirm_within(Some(bad)).unwrap_err().contains("confirm_within"), "{bad}");
        }
    }
}
