//! Why something is not signed.

/// Why something is not signed: a stable word, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) word: &'static str,
    pub(super) detail: String,
}
