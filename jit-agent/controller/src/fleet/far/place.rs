//! Where a host at a hub is, as its page shows it. Pure.

/// Between a host's peer and its hub.
const AT: &str = " at the hub ";

/// Where a host is, as its page shows it.
pub(super) fn at(peer: &str, hub: &str) -> String {
    format!("{peer}{AT}{hub}")
}

/// The hub in a place.
pub(super) fn hub_of(place: &str) -> Option<&str> {
    place.rsplit_once(AT).map(|(_, hub)| hub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_of_a_place_is_its_last_word() {
        assert_eq!(hub_of(&at("192.0.2.1:4", "hub-a")), Some("hub-a"));
        assert_eq!(hub_of("192.0.2.1"), None);
    }
}
