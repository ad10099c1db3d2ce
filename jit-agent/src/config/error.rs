//! Why a configuration is refused.

use std::path::{Path, PathBuf};

use crate::config::mistakes::Mistake;

/// Why a configuration is refused: the file, and every mistake in it.
#[derive(Debug, thiserror::Error)]
#[error("configuration {}: {}", file.display(), self.what())]
pub struct ConfigError {
    file: PathBuf,
    /// At least one, in the order of the file.
    mistakes: Vec<Mistake>,
}

impl ConfigError {
    /// The file as a whole cannot be used.
    pub(super) fn whole(file: &Path, why: String) -> Self {
        Self::new(file, vec![Mistake { place: None, text: why }])
    }

    /// `mistakes`: at least one.
    pub(super) fn new(file: &Path, mistakes: Vec<Mistake>) -> Self {
        Self { file: file.to_owned(), mistakes }
    }

    /// The mistakes, in the order of the file; at least one.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// The first mistake on one line, with the file's line where it is known, and how many more there
    /// are.
    pub fn brief(&self) -> String {
        let first = self.mistakes.first().map(Mistake::placed).unwrap_or_default();
        match self.mistakes.len().saturating_sub(1) {
            0 => first,
            more => format!("{first} (and {more} more; see `jit-agent check`)"),
        }
    }

    fn what(&self) -> String {
        if let [only] = &self.mistakes[..] {
            return only.placed();
        }
        let file = self.file.display();
        let all = self.mistakes.iter().map(|Mistake { place, text }| match place {
            Some(place) => format!("\n  {file}:{}:{}: {text}", place.line, place.column),
            None => format!("\n  {file}: {text}"),
        });
        let all: String = all.collect();
        format!("{} mistakes; each by line and column:{all}", self.mistakes.len())
    }
}
