//! Which hosts get a policy when, and how far each is.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Host, state::words};

words! {
    /// The state of a rollout.
    RolloutState {
        /// Somebody ended it; hosts that had not begun keep what they have.
        Aborted = "aborted",
        /// Every host has the policy.
        Done = "done",
        /// A host refused it, degraded or stayed silent: nothing goes on before somebody says so.
        Halted = "halted",
        /// It goes on.
        Running = "running",
    }
}

words! {
    /// How far a host of a rollout is.
    HostState {
        /// The policy is in force, and confirmed where that was needed.
        Applied = "applied",
        /// Something is wrong with the host since it has the policy; where it waited for a
        /// confirmation it got none, and the policy before returns.
        Degraded = "degraded",
        /// The policy is at the host, and waits for the confirmation.
        Pushed = "pushed",
        /// The host refused the policy.
        Refused = "refused",
        /// The payload is made and may be signed.
        Signing = "signing",
        /// It did not answer.
        Silent = "silent",
        /// The rollout ended before its turn, or another one brings a policy there.
        Skipped = "skipped",
        /// Its turn has not come.
        Waiting = "waiting",
    }
}

impl HostState {
    /// Whether the rollout halts because of it.
    pub const fn halts(self) -> bool {
        matches!(self, Self::Degraded | Self::Refused | Self::Silent)
    }

    /// Whether nothing is left to do for it.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Applied | Self::Skipped) || self.halts()
    }
}

/// Hosts of a wave that are named one by one where there is little room.
const NAMED: usize = 8;

/// Hosts that get a policy at the same time: those of the selector that no wave before had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Wave {
    /// All that are left: `all`.
    All,
    /// Those of a group: `group:web`.
    Group(String),
    /// These: `hosts:web-1,web-2`.
    Hosts(BTreeSet<String>),
    /// Those with a label: `env=canary`.
    Label(String, String),
    /// So many of a hundred of all hosts of the rollout, those of the waves before included: `10%`.
    Percent(u8),
}

impl FromStr for Wave {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(number) = text.strip_suffix('%') {
            return match number.trim().parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(format!("{text:?}: a percentage is 1% to 100%")),
            };
        }
        if let Some(group) = text.strip_prefix("group:").filter(|group| !group.is_empty()) {
            return Ok(Self::Group(group.to_owned()));
        }
        if let Some(hosts) = text.strip_prefix("hosts:") {
            let hosts: BTreeSet<_> = hosts.split(',').map(|id| id.trim().to_owned()).collect();
            return match hosts.contains("") {
                true => Err(format!("{text:?}: hosts are such as hosts:web-1,web-2")),
                false => Ok(Self::Hosts(hosts)),
            };
        }
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self::Label(key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(format!("{text:?} is none of LABEL=VALUE, group:NAME, hosts:ID,ID, N%, all")),
        }
    }
}

impl fmt::Display for Wave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Group(group) => write!(f, "group:{group}"),
            Self::Hosts(hosts) => {
                write!(f, "hosts:{}", hosts.iter().cloned().collect::<Vec<_>>().join(","))
            }
            Self::Label(key, value) => write!(f, "{key}={value}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl TryFrom<String> for Wave {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Wave> for String {
    fn from(wave: Wave) -> Self {
        wave.to_string()
    }
}

impl Wave {
    /// The hosts that it names one by one.
    pub(crate) fn named(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::Hosts(hosts) => Some(hosts),
            Self::All | Self::Group(_) | Self::Label(..) | Self::Percent(_) => None,
        }
        .into_iter()
        .flatten()
    }

    /// As it is written; of many hosts their number.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Hosts(hosts) if hosts.len() > NAMED => format!("{} hosts", hosts.len()),
            Self::All | Self::Group(_) | Self::Hosts(_) | Self::Label(..) | Self::Percent(_) => {
                self.to_string()
            }
        }
    }

    fn selects(&self, host: &Host) -> bool {
        match self {
            Self::All | Self::Percent(_) => true,
            Self::Group(group) => host.groups.contains(group),
            Self::Hosts(hosts) => hosts.contains(&host.id),
            Self::Label(key, value) => host.labels.get(key) == Some(value),
        }
    }
}

/// The hosts of each wave; each host is in one at most, and hosts that no wave selects are in none.
///
/// A percentage takes hosts in an order that depends on their ids and on nothing else, so that not
/// all of one kind are first.
pub fn plan(hosts: &[Host], waves: &[Wave]) -> Vec<Vec<String>> {
    let mut order: Vec<_> = hosts.iter().collect();
    order.sort_by_cached_key(|host| Sha256::digest(&host.id).to_vec());
    let mut taken = BTreeSet::new();
    let mut plan = Vec::new();
    for wave in waves {
        let most = match wave {
            Wave::Percent(percent) => {
                let wanted = (hosts.len() * usize::from(*percent)).div_ceil(100);
                wanted.saturating_sub(taken.len())
            }
            Wave::All | Wave::Group(_) | Wave::Hosts(_) | Wave::Label(..) => usize::MAX,
        };
        let free = |host: &&&Host| wave.selects(host) && !taken.contains(&host.id);
        let mut of_wave: Vec<_> =
            order.iter().filter(free).take(most).map(|host| host.id.clone()).collect();
        of_wave.sort();
        taken.extend(of_wave.iter().cloned());
        plan.push(of_wave);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> Host {
        let env = if number < 3 { "canary" } else { "prod" };
        Host {
            id: format!("web-{number:03}"),
            labels: [("env".to_owned(), env.to_owned())].into(),
            groups: [if number.is_multiple_of(2) { "even" } else { "odd" }.to_owned()].into(),
            ..Host::default()
        }
    }

    #[test]
    fn each_host_is_in_the_first_wave_that_takes_it() {
        let hosts: Vec<_> = (0..200).map(host).collect();
        let waves: Vec<Wave> = ["env=canary", "1%", "10%", "group:odd", "all"]
            .map(|wave| wave.parse().unwrap())
            .into();
        let plan = plan(&hosts, &waves);
        let sizes: Vec<_> = plan.iter().map(Vec::len).collect();
        // 1 % is 2 hosts: the canaries are more already. 10 % is 20 with them.
        assert_eq!((sizes[0], sizes[1], sizes[2]), (3, 0, 17));
        assert_eq!(sizes.iter().sum::<usize>(), 200);
        let all: BTreeSet<_> = plan.iter().flatten().collect();
        assert_eq!(all.len(), 200);
        assert_eq!(super::plan(&hosts, &waves), plan);
        let named = super::plan(&hosts, &["hosts:web-007,web-100,db-1".parse().unwrap()]);
        assert_eq!(named, [["web-007", "web-100"]]);
        let alone = super::plan(&hosts, &["env=canary".parse().unwrap()]);
        assert_eq!(alone, [["web-000", "web-001", "web-002"]]);
    }

    #[test]
    fn many_hosts_are_a_number() {
        let wave = |count: usize| {
            let names: Vec<_> = (0..count).map(|number| format!("web-{number}")).collect();
            format!("hosts:{}", names.join(",")).parse::<Wave>().unwrap()
        };
        assert_eq!(wave(NAMED).brief(), wave(NAMED).to_string());
        assert_eq!(wave(5000).brief(), "5000 hosts");
        assert_eq!(wave(5000).to_string().matches("web-").count(), 5000);
        assert_eq!(Wave::Group("web".into()).brief(), "group:web");
    }

    #[test]
    fn a_wave_reads_back_as_it_is_written() {
        for text in ["all", "1%", "100%", "group:web", "hosts:web-1,web-2", "env=prod", "env="] {
            assert_eq!(text.parse::<Wave>().unwrap().to_string(), text);
        }
        for text in ["", "0%", "101%", "x%", "group:", "hosts:", "hosts:a,", "web", "=prod"] {
            assert!(text.parse::<Wave>().is_err(), "{text}");
        }
    }
}
