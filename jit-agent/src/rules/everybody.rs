//! Whether some sources together are everybody: then a port that lets them in without a grant is open
//! to all.

use jit_common::{Address, Family};
use jit_proto::SourcePrefix;

/// The addresses that a sender from elsewhere can have, first and last (unicast; RFC 1122 section
/// 3.2.1.3, RFC 4291 section 2.4). What else is exempt does not matter.
const V4: [([u8; 4], [u8; 4]); 2] =
    [([1, 0, 0, 0], [126, 255, 255, 255]), ([128, 0, 0, 0], [223, 255, 255, 255])];
const V6: ([u8; 16], [u8; 16]) = (
    [0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0x3f, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
);

/// The families of which these sources together are everybody.
pub fn open_to_all(sources: &[SourcePrefix]) -> Vec<Family> {
    let [low, high] = V4.map(|(first, last)| (Address::v4(first), Address::v4(last)));
    let six = (Address::v6(V6.0), Address::v6(V6.1));
    let mut families = Vec::new();
    if covers(sources, Family::V4, low) && covers(sources, Family::V4, high) {
        families.push(Family::V4);
    }
    if covers(sources, Family::V6, six) {
        families.push(Family::V6);
    }
    families
}

/// Whether every address of a range is in one of these sources.
fn covers(sources: &[SourcePrefix], family: Family, (first, last): (Address, Address)) -> bool {
    let number = |address: Address| match family {
        Family::V4 => u128::from(u32::from_be_bytes(address.first_four())),
        Family::V6 => u128::from_be_bytes(address.bytes()),
    };
    let of_family = sources.iter().filter(|source| source.address().family == family);
    let mut ranges: Vec<_> =
        of_family.map(|source| (number(source.address()), number(source.last_address()))).collect();
    ranges.sort_unstable();
    // The first address that is not covered yet.
    let mut next = number(first);
    for (from, to) in ranges {
        if from > next {
            break;
        }
        next = next.max(to.saturating_add(1));
    }
    next > number(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sources: &[&str]) -> Vec<Family> {
        let sources: Vec<_> = sources.iter().map(|source| source.parse().unwrap()).collect();
        open_to_all(&sources)
    }

    #[test]
    fn sources_that_together_cover_a_family_are_everybody() {
        for (sources, families) in [
            (vec![], vec![]),
            (vec!["10.0.0.0/8", "2001:db8::/32"], vec![]),
            (vec!["0.0.0.0/0"], vec![Family::V4]),
            (vec!["::/0"], vec![Family::V6]),
            (vec!["2000::/3", "0.0.0.0/0"], vec![Family::V4, Family::V6]),
            (vec!["128.0.0.0/1", "0.0.0.0/1"], vec![Family::V4]),
            (vec!["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"], vec![Family::V4]),
            (vec!["0.0.0.0/1", "128.0.0.0/2"], vec![]),
            (vec!["0.0.0.0/1", "192.0.0.0/2"], vec![]),
            (vec!["::/1", "8000::/1"], vec![Family::V6]),
            (vec!["2000::/4"], vec![]),
        ] {
            assert_eq!(of(&sources), families, "{sources:?}");
        }
    }
}
