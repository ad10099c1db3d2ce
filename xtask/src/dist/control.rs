//! Texts that packages have about themselves.

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::{contents::Package, release::Release};
use crate::shell;

/// Who makes the packages.
pub(super) const MAINTAINER: &str = "The jit-agent authors <jit-agent@localhost>";

/// Debian's copyright file
/// (<https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/>).
pub(super) fn copyright() -> Result<String> {
    let path = shell::root().join("LICENSE-MIT");
    let mit = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (holder, terms) = mit.split_once("\n\n").context("LICENSE-MIT begins with its holder")?;
    let terms: String = terms.lines().map(indented).collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: jit-agent\n\
         \n\
         Files: *\n\
         {}\n\
         License: MIT or Apache-2.0\n\
         \n\
         License: MIT\n\
         {terms}\n\
         License: Apache-2.0\n \
         On Debian systems, the full text of the Apache License, Version 2.0 is in\n \
         /usr/share/common-licenses/Apache-2.0.\n",
        holder.trim().replace("Copyright (c)", "Copyright:")
    ))
}

fn indented(line: &str) -> String {
    if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") }
}

/// Debian's changelog: what changed is in the project's own one, beside it.
pub(super) fn changelog(package: &Package, release: &Release) -> Result<String> {
    let Release { version, epoch, target: _ } = release;
    let revision = Release::REVISION;
    let date = date(*epoch, "%a, %d %b %Y %H:%M:%S +0000")?;
    Ok(format!(
        "{} ({version}-{revision}) unstable; urgency=medium\n\n  * Release {version}: see \
         changelog.gz.\n\n -- {MAINTAINER}  {date}\n",
        package.name
    ))
}

/// What lintian(1) may find, and why that is right here.
pub(super) fn overrides(package: &str) -> String {
    format!(
        "# There is no address for mail: SECURITY.md says how to report.\n\
         {package}: bogus-mail-host *\n\
         {package}: bogus-mail-host-in-debian-changelog *\n\
         # A first upload to Debian's archive closes a bug. This is not from there.\n\
         {package}: initial-upload-closes-no-bugs *\n"
    )
}

/// A time in words, UTC.
pub(super) fn date(epoch: u64, format: &str) -> Result<String> {
    let seconds = i64::try_from(epoch).context("the time of the release")?;
    let time = Timestamp::from_second(seconds).context("the time of the release")?;
    Ok(time.strftime(format).to_string())
}

/// A paragraph in lines of at most 78 characters, each with this beginning.
pub(super) fn wrapped(paragraph: &str, beginning: &str) -> String {
    let mut text = String::new();
    let mut line = beginning.to_owned();
    for word in paragraph.split_whitespace() {
        if line.len() + 1 + word.len() > 78 && line != beginning {
            text += line.trim_end();
            text.push('\n');
            line = beginning.to_owned();
        }
        line += word;
        line.push(' ');
    }
    text + line.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_wrapped_at_words() {
        let text = wrapped(&"word ".repeat(40), " ");
        assert!(text.lines().all(|line| line.len() <= 78 && line.starts_with(" word")), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
    }
}
