//! The interfaces and the socket guard, grouped: those without a gate first, by name.

use jit_proto::{Hook, printable::clean, v1};

use super::{RED, YELLOW, layout::Piece};

/// The most names of one group that are written.
const MOST_NAMES: usize = 6;

/// What the interfaces of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hooked {
    hook: String,
    why: String,
    colour: Option<&'static str>,
}

impl Hooked {
    fn of(interface: &v1::Interface) -> Self {
        let (hook, colour) = match interface.hook.as_str() {
            "guard_only" => ("SOCKET GUARD ONLY", Some(YELLOW)),
            "excluded" => ("EXCLUDED", None),
            word => Hook::from_word(word)
                .map_or(("WITHOUT A GATE", Some(RED)), |hook| (hook.name(), None)),
        };
        let v1::Interface { note, excluded, .. } = interface;
        let why = clean(if excluded.is_empty() { note } else { excluded }, 120);
        Self { hook: hook.to_owned(), why, colour }
    }
}

/// `eth0-eth7  native XDP`, `1 WITHOUT A GATE: eth9`.
pub(super) fn pieces(interfaces: &[v1::Interface]) -> Vec<Piece> {
    let mut groups: Vec<(Hooked, Vec<String>)> = Vec::new();
    for interface in interfaces {
        let (hooked, name) = (Hooked::of(interface), clean(&interface.name, 20));
        match groups.iter_mut().find(|(other, _)| *other == hooked) {
            Some((_, names)) => names.push(name),
            None => groups.push((hooked, vec![name])),
        }
    }
    // What is not gated must not be cut off.
    groups.sort_by_key(|(hooked, _)| match hooked.colour {
        Some(RED) => 0,
        Some(_) => 1,
        None => 2,
    });
    groups.into_iter().map(|(hooked, names)| piece(hooked, names)).collect()
}

fn piece(hooked: Hooked, names: Vec<String>) -> Piece {
    let Hooked { hook, why, colour } = hooked;
    let number = names.len();
    let why = if why.is_empty() { why } else { format!(" ({why})") };
    let names = listed(names);
    match colour {
        Some(colour) => Piece::coloured(format!("{number} {hook}: {names}{why}"), colour),
        None => Piece::plain(format!("{names}  {hook}{why}")),
    }
}

/// Names that differ by a number that counts up, as a range; a few ranges, and the number of others.
fn listed(mut names: Vec<String>) -> String {
    names.sort_by(|a, b| parts(a).cmp(&parts(b)));
    let mut runs: Vec<(String, String, usize)> = Vec::new();
    for name in names {
        match runs.last_mut() {
            Some((_, last, count)) if follows(last, &name) => {
                *last = name;
                *count += 1;
            }
            _ => runs.push((name.clone(), name, 1)),
        }
    }
    let text = |(first, last, count): &(String, String, usize)| match count {
        1 => first.clone(),
        2 => format!("{first} {last}"),
        _ => format!("{first}-{last}"),
    };
    let mut shown: Vec<_> = runs.iter().take(MOST_NAMES).map(text).collect();
    let others: usize = runs.iter().skip(MOST_NAMES).map(|(_, _, count)| count).sum();
    if others > 0 {
        shown.push(format!("+{others}"));
    }
    shown.join(" ")
}

/// A name, and the number at its end.
fn parts(name: &str) -> (&str, Option<u64>, &str) {
    let stem = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let number = name.get(stem.len()..).unwrap_or_default();
    // `eth01` does not come after `eth0`.
    let plain = number == "0" || !number.starts_with('0');
    (stem, number.parse().ok().filter(|_| plain), name)
}

fn follows(last: &str, next: &str) -> bool {
    let ((stem, number, _), (next_stem, next_number, _)) = (parts(last), parts(next));
    stem == next_stem && number.is_some() && number.and_then(|n| n.checked_add(1)) == next_number
}

/// The socket guard.
pub(super) fn guard(guard: &v1::SocketGuard) -> Piece {
    match (guard.attached, guard.wanted) {
        (true, _) => Piece::plain("socket guard"),
        (false, true) => Piece::coloured("NO SOCKET GUARD", RED),
        (false, false) => {
            Piece::plain("socket guard off (new interfaces are open for some milliseconds)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> String {
        listed(list.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn names_that_count_up_are_a_range() {
        assert_eq!(names(&["eth0"]), "eth0");
        assert_eq!(names(&["eth1", "eth0"]), "eth0 eth1");
        assert_eq!(names(&["eth10", "eth9", "eth8", "wg0"]), "eth8-eth10 wg0");
        assert_eq!(names(&["eth0", "eth01", "eth02"]), "eth01 eth02 eth0");
        let many: Vec<_> = (0..500).map(|n| format!("veth{}", n * 2)).collect();
        let many = listed(many);
        assert_eq!(many, "veth0 veth2 veth4 veth6 veth8 veth10 +494");
    }
}
