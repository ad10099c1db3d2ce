//! `[audit]`: how much of the audit is kept.

use std::ops::RangeInclusive;

use crate::config::{raw, value};

/// Size at which a file of the audit is full, bytes, and full files that are kept: 544 MiB at most,
/// some two years of 200 grants a day.
const DEFAULT_SIZE: u64 = 32 * 1024 * 1024;
const DEFAULT_KEEP: u32 = 16;
/// Smallest and largest file of the audit, bytes, and most that are kept.
const SIZES: RangeInclusive<u64> = 64 * 1024..=1024 * 1024 * 1024;
const MAX_KEEP: u32 = 10_000;

/// Sizes of the audit's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Size at which a file is full, bytes.
    pub max_size: u64,
    /// Full files that are kept beside the one that is written to.
    pub keep: u32,
}

impl Audit {
    /// Of `[audit]`.
    pub(super) fn new(raw: raw::Audit) -> Result<Self, String> {
        let raw::Audit { max_size, keep } = raw;
        let max_size = max_size.map_or(Ok(DEFAULT_SIZE), |text| {
            value::bytes(&text).filter(|size| SIZES.contains(size)).ok_or_else(|| {
                format!("[audit] max_size: {text:?} is not a size from 64KiB to 1GiB, like 32MiB")
            })
        })?;
        match keep.unwrap_or(DEFAULT_KEEP) {
            keep @ 1..=MAX_KEEP => Ok(Self { max_size, keep }),
            keep => Err(format!("[audit] keep: {keep} is not from 1 to {MAX_KEEP}")),
        }
    }
}
