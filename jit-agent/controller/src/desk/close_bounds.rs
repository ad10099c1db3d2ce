//! How many revocations people can make: whoever may close something must not keep others from closing.
//! One of all grants on every host is never held up by others: it says all that they do.

use super::DeskError;
use crate::store::{ClosingLoad, Store};

/// Of one person, in a minute: the signer signs more of them.
const A_MINUTE: i64 = 60;
/// Of one person, in a day, without those of everything.
const A_DAY: i64 = 1000;
/// Of one person, that some host has not carried out, without those of everything.
const OPEN_OF_ONE: i64 = 200;
/// The same of all people.
const OPEN: i64 = 2000;

/// Refuses one more of this person. `everything`: it is about all grants on every host.
pub(super) async fn check(
    store: &Store,
    author: &str,
    everything: bool,
    now_ms: i64,
) -> Result<(), DeskError> {
    let load = store.closing_load(author, now_ms).await?;
    allow(&load, everything).map_err(DeskError::Conflict)
}

fn allow(load: &ClosingLoad, everything: bool) -> Result<(), String> {
    let ClosingLoad { minute, day, open_of_one, open } = *load;
    if minute >= A_MINUTE {
        return Err(format!("you have made {minute} revocations within a minute; wait a minute"));
    }
    let one = "make one of all grants on every host instead (`--every-host --all`)";
    if everything {
        Ok(())
    } else if day >= A_DAY {
        Err(format!("you have made {day} revocations within a day; {one}"))
    } else if open_of_one >= OPEN_OF_ONE {
        Err(format!("hosts have not carried out {open_of_one} of your revocations yet; {one}"))
    } else if open >= OPEN {
        Err(format!("hosts have not carried out {open} revocations yet; {one}"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_hold_up_no_revocation_of_everything() {
        let free = ClosingLoad::default();
        assert_eq!(allow(&free, false), Ok(()));
        for full in [
            ClosingLoad { day: A_DAY, ..free },
            ClosingLoad { open_of_one: OPEN_OF_ONE, ..free },
            ClosingLoad { open: OPEN, ..free },
        ] {
            assert!(allow(&full, false).unwrap_err().contains("--every-host --all"), "{full:?}");
            assert_eq!(allow(&full, true), Ok(()), "{full:?}");
        }
        let fast = ClosingLoad { minute: A_MINUTE, ..free };
        assert!(allow(&fast, false).is_err() && allow(&fast, true).is_err());
    }
}
