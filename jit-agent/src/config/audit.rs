//! `[audit]`: how much of the audit is kept.

use std::ops::RangeInclusive;

use jit_proto::wrong::Wrongs;

use crate::config::{raw, value};

/// Defaults: the size of a full file, bytes, and the number of full files to keep. Together at most
/// 544 MiB, about two years with 200 grants a day.
const DEFAULT_SIZE: u64 = 32 * 1024 * 1024;
const DEFAULT_KEEP: u32 = 16;
/// Limits: the size of a full file, bytes, and the number of full files to keep.
const SIZES: RangeInclusive<u64> = 64 * 1024..=1024 * 1024 * 1024;
const MAX_KEEP: u32 = 10_000;

/// Size and number of the audit's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Size at which a file is full, bytes.
    pub max_size: u64,
    /// Number of full files to keep, beside the one that the agent writes to.
    pub keep: u32,
}

impl AuditConfig {
    /// The most that all files can take, bytes.
    pub(crate) const fn most(self) -> u64 {
        self.max_size.saturating_mul(self.keep as u64 + 1)
    }

    /// Checks an `[audit]`.
    pub(super) fn new(raw: raw::Audit, wrongs: &mut Wrongs) -> Self {
        let raw::Audit { max_size, keep } = raw;
        let max_size = max_size.map_or(Ok(DEFAULT_SIZE), |text| {
            value::bytes(&text).filter(|size| SIZES.contains(size)).ok_or_else(|| {
                format!("[audit] max_size: {text:?} is not a size from 64KiB to 1GiB, like 32MiB")
            })
        });
        let keep = match keep.unwrap_or(DEFAULT_KEEP) {
            keep @ 1..=MAX_KEEP => Ok(keep),
            keep => Err(format!("[audit] keep: {keep} is not from 1 to {MAX_KEEP}")),
        };
        Self {
            max_size: wrongs.or("audit.max_size", max_size, DEFAULT_SIZE),
            keep: wrongs.or("audit.keep", keep, DEFAULT_KEEP),
        }
    }
}
