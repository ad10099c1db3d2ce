//! What a checkpoint says, and why every host would refuse it.

use std::time::Duration;

use jit_proto::v1;

use super::time;
use crate::text::duration;

pub(super) fn wrong(one: &v1::Checkpoint) -> Vec<String> {
    let checks = [
        (one.epoch == 0 || one.number == 0, "its epoch or number is 0"),
        (one.issued_at_ms <= 0, "it has no issued_at"),
        (
            !(1_000..=3_600_000).contains(&one.valid_for_ms),
            "it counts for less than 1 s or more than 1 h",
        ),
        (one.root.len() != 32, "its root has not 32 bytes"),
        (!(1..=1 << 32).contains(&one.hosts), "it has no host, or more than 2^32"),
    ];
    checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, why)| why.to_owned()).collect()
}

pub(super) fn fields(one: &v1::Checkpoint) -> Vec<(&'static str, String)> {
    let v1::Checkpoint { epoch, number, issued_at_ms, valid_for_ms, root, hosts } = one;
    let fresh = duration(Duration::from_millis((*valid_for_ms).into()));
    vec![
        ("checkpoint", format!("{number} of epoch {epoch}")),
        ("issued", time(*issued_at_ms)),
        ("fresh", format!("for {fresh}")),
        ("root", hex::encode(root)),
        ("leaves", format!("{hosts}, one a host")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_one_is_shown_and_each_wrong_value_is_named() {
        let good = v1::Checkpoint {
            epoch: 2,
            number: 7,
            issued_at_ms: 1_780_272_000_000,
            valid_for_ms: 25_000,
            root: vec![9; 32].into(),
            hosts: 3,
        };
        assert_eq!(wrong(&good), [""; 0]);
        let shown: Vec<_> = fields(&good).into_iter().map(|(_, value)| value).collect();
        let root = "09".repeat(32);
        let expected = ["7 of epoch 2", "2026-06-01T00:00:00Z", "for 25s", &root, "3, one a host"];
        assert_eq!(shown, expected);
        assert_eq!(wrong(&v1::Checkpoint::default()).len(), 5);
        assert_eq!(wrong(&v1::Checkpoint { hosts: u64::MAX, ..good }).len(), 1);
    }
}
