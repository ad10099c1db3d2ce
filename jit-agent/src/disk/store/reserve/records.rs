//! The records of the reserve: revoked ids, and floors of requesters. A record of a floor is followed by
//! the requester's name, filled up with zeros.

use jit_proto::{GrantId, WallTime, text::MAX_NAME_BYTES};

use crate::rules::{
    clock::BootNanos,
    ledger::{Floor, Tombstone},
};

/// Length of a record, bytes: id, wall time, boot time.
pub(super) const RECORD: usize = 32;
/// In place of a boot time: the record is a floor, and the other bits are the length of the name. No
/// boot clock comes this far.
const IS_FLOOR: u64 = 1 << 63;
/// The id of no grant: that of a floor.
const NO_ID: GrantId = GrantId([0; 16]);

/// A record.
pub(super) enum Record {
    /// A revoked id, and until when it stays refused.
    Closed(GrantId, Tombstone),
    /// A requester's floor.
    Floor(Floor),
}

/// Reads all records; `None`: they make no sense.
pub(super) fn read(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while let Some((record, rest)) = bytes.split_first_chunk::<RECORD>() {
        bytes = rest;
        let (id, times) = record.split_first_chunk::<16>()?;
        let (until, boot) = times.split_first_chunk::<8>()?;
        let (until, boot) = (WallTime(i64::from_le_bytes(*until)), boot.first_chunk::<8>()?);
        let (id, boot) = (GrantId(*id), u64::from_le_bytes(*boot));
        if id != NO_ID || boot & IS_FLOOR == 0 {
            records.push(Record::Closed(id, Tombstone { until, boot: BootNanos(boot) }));
            continue;
        }
        let length = usize::try_from(boot & !IS_FLOOR).ok()?;
        let (name, rest) = bytes.split_at_checked(length.checked_next_multiple_of(RECORD)?)?;
        bytes = rest;
        let name = std::str::from_utf8(name.get(..length)?).ok()?;
        records.push(Record::Floor(Floor { requester: Some(name.to_owned()), at: until }));
    }
    bytes.is_empty().then_some(records)
}

/// Adds the record of a revoked id.
pub(super) fn add(records: &mut Vec<u8>, id: GrantId, Tombstone { until, boot }: Tombstone) {
    records.extend(id.0);
    records.extend(until.0.to_le_bytes());
    records.extend(boot.0.to_le_bytes());
}

/// Adds the records of a requester's floor, if there is room in `most` bytes and it is one of a
/// requester. Returns whether it was added.
pub(super) fn add_floor(records: &mut Vec<u8>, floor: &Floor, most: usize) -> bool {
    let Some(name) = &floor.requester else { return false };
    let length = name.len().next_multiple_of(RECORD);
    let room = most.saturating_sub(records.len());
    let Ok(mark) = u64::try_from(name.len()) else { return false };
    if name.len() > MAX_NAME_BYTES || room < RECORD.saturating_add(length) {
        return false;
    }
    add(records, NO_ID, Tombstone { until: floor.at, boot: BootNanos(IS_FLOOR | mark) });
    records.extend(name.as_bytes());
    records.resize(records.len().next_multiple_of(RECORD), 0);
    true
}
