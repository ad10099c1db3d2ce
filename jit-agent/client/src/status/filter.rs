//! Which grants a list shows, and in which order. A source matches also inside a prefix, and every
//! source and port of a grant counts, not only the first.

use jit_proto::{PortRange, SourcePrefix, v1};

use super::grants::readable;

/// Which grants to show; what is not set lets every grant through.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A source of the grant contains this, or lies inside it.
    pub source: Option<SourcePrefix>,
    /// Part of the requester's name, in small or capital letters.
    pub user: Option<String>,
    /// The grant opens one of these ports.
    pub port: Option<PortRange>,
    /// A source of the grant is a single address: it takes a host entry of the kernel's tables.
    pub host_entry: bool,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Most connections first.
    Hits,
    /// The next to end first; those that have ended last.
    Left,
    /// By the first port.
    Port,
    /// By the first source.
    Source,
    /// By the requester's name.
    User,
}

impl Filter {
    /// Keeps only the grants that match.
    pub fn apply(&self, grants: &mut Vec<v1::GrantState>) {
        let Self { source, user, port, host_entry } = self;
        if source.is_none() && user.is_none() && port.is_none() && !host_entry {
            return;
        }
        grants.retain(|state| self.matches(&readable(state)));
    }

    pub(super) fn matches(&self, grant: &v1::Grant) -> bool {
        let Self { source, user, port, host_entry } = self;
        let sources = || grant.sources.iter().filter_map(|one| SourcePrefix::try_from(one).ok());
        let has_source = source.is_none_or(|wanted| {
            sources().any(|one| one.contains(&wanted) || wanted.contains(&one))
        });
        let has_user = user
            .as_ref()
            .is_none_or(|wanted| grant.requester.to_lowercase().contains(&wanted.to_lowercase()));
        let has_port = port.is_none_or(|wanted| grant.ports.iter().any(|one| overlap(one, wanted)));
        has_source && has_user && has_port && (!host_entry || sources().any(|one| one.is_host()))
    }
}

fn overlap(range: &v1::PortRange, wanted: PortRange) -> bool {
    let wanted = v1::PortRange::from(wanted);
    range.protocol == wanted.protocol && range.first <= wanted.last && wanted.first <= range.last
}

impl Order {
    /// Sorts; equals stay as they were.
    pub fn sort(self, grants: &mut [v1::GrantState]) {
        match self {
            Self::Hits => grants.sort_by_key(|state| std::cmp::Reverse(state.hits)),
            Self::Left => grants.sort_by_key(|state| match state.state() {
                v1::State::Active | v1::State::Exhausted => (0, state.left_ms),
                v1::State::Scheduled => (1, readable(state).not_before_ms),
                _ => (2, 0),
            }),
            Self::Port => grants.sort_by_cached_key(|state| {
                let ports = readable(state).ports;
                ports.first().map(|port| (port.protocol, port.first, port.last))
            }),
            Self::Source => grants.sort_by_cached_key(|state| {
                let sources = readable(state).sources;
                sources.first().and_then(|source| SourcePrefix::try_from(source).ok())
            }),
            Self::User => {
                grants.sort_by_cached_key(|state| readable(state).requester.to_lowercase())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn state(id: u8, sources: &[&str], ports: &[&str], requester: &str) -> v1::GrantState {
        let source = |text: &&str| v1::Source::from(&text.parse::<SourcePrefix>().unwrap());
        let port = |text: &&str| v1::PortRange::from(text.parse::<PortRange>().unwrap());
        let grant = v1::Grant {
            id: vec![id; 16].into(),
            sources: sources.iter().map(source).collect(),
            ports: ports.iter().map(port).collect(),
            requester: requester.into(),
            ..v1::Grant::default()
        };
        v1::GrantState {
            grant: grant.encode_to_vec().into(),
            state: v1::State::Active.into(),
            left_ms: i64::from(id) * 1000,
            hits: id.into(),
            ..v1::GrantState::default()
        }
    }

    fn all() -> Vec<v1::GrantState> {
        vec![
            state(1, &["203.0.113.7", "2001:db8::7"], &["22", "5985-5986/tcp"], "Li@example.org"),
            state(2, &["203.0.113.0/24"], &["3389"], "ana@example.org"),
            state(3, &["198.51.100.7"], &["22/udp"], "bo@example.org"),
        ]
    }

    fn found(filter: Filter) -> Vec<u64> {
        let mut grants = all();
        filter.apply(&mut grants);
        grants.iter().map(|state| state.hits).collect()
    }

    #[test]
    fn a_source_is_found_inside_a_prefix_and_as_the_second_one() {
        let by =
            |text: &str| found(Filter { source: Some(text.parse().unwrap()), ..Filter::default() });
        assert_eq!(by("203.0.113.7"), [1, 2]);
        assert_eq!(by("203.0.113.8"), [2]);
        assert_eq!(by("203.0.112.0/23"), [1, 2]);
        assert_eq!(by("2001:db8::7"), [1]);
        assert_eq!(by("192.0.2.1"), [0_u64; 0]);
        assert_eq!(by("0.0.0.0/0"), [1, 2, 3]);
    }

    #[test]
    fn a_user_a_port_and_a_host_entry_are_found() {
        let user = |text: &str| found(Filter { user: Some(text.into()), ..Filter::default() });
        assert_eq!((user("li"), user("EXAMPLE")), (vec![1], vec![1, 2, 3]));
        let port =
            |text: &str| found(Filter { port: Some(text.parse().unwrap()), ..Filter::default() });
        assert_eq!((port("22/tcp"), port("5986"), port("22/udp")), (vec![1], vec![1], vec![3]));
        assert_eq!(port("1-65535/tcp"), [1, 2]);
        assert_eq!(found(Filter { host_entry: true, ..Filter::default() }), [1, 3]);
        assert_eq!(found(Filter::default()), [1, 2, 3]);
    }

    #[test]
    fn each_order_sorts() {
        for (order, expected) in [
            (Order::Hits, [3, 2, 1]),
            (Order::Left, [1, 2, 3]),
            (Order::Port, [1, 2, 3]),
            (Order::Source, [3, 2, 1]),
            (Order::User, [2, 3, 1]),
        ] {
            let mut grants = all();
            order.sort(&mut grants);
            let order_of: Vec<_> = grants.iter().map(|state| state.hits).collect();
            assert_eq!(order_of, expected, "{order:?}");
        }
    }
}
