//! The section `[messages]` of the configuration.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use reqwest::Url;
use serde::Deserialize;

use super::mail;
use crate::here::secure;

/// Where Slack is.
const SLACK: &str = "https://slack.com/api/";

/// The section as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSettings {
    /// `[[messages.slack]]`: bots.
    pub slack: Vec<RawSlack>,
    /// `[messages.mail]`
    pub mail: Option<mail::RawSettings>,
}

/// A bot as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSlack {
    /// Its name here, unique; it stays when the channel changes.
    pub name: String,
    /// The channel: its id, as Slack shows it in the channel's details.
    pub channel: String,
    /// File with the token of the bot: `xoxb-...`.
    pub token_file: PathBuf,
    /// Where Slack is, if not at slack.com.
    pub api_url: Option<String>,
}

/// The section, checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Bots.
    pub slack: Vec<Slack>,
    /// Mail; `None`: nobody gets any.
    pub mail: Option<mail::Settings>,
}

/// A bot in a channel of Slack.
#[derive(Clone, Debug)]
pub struct Slack {
    /// Its name.
    pub name: String,
    /// The id of its channel.
    pub channel: String,
    /// File with its token.
    pub token_file: PathBuf,
    /// Where Slack is; it ends with `/`.
    pub api: Url,
}

impl Settings {
    /// Checks the section. Relative paths begin at `directory`.
    ///
    /// # Errors
    /// The first value that is wrong, in words.
    pub fn of(raw: RawSettings, directory: &Path) -> Result<Self, String> {
        let mut names = BTreeSet::new();
        let slack = raw.slack.into_iter().map(|raw| {
            let RawSlack { name, channel, token_file, api_url } = raw;
            if name.trim().is_empty() || !names.insert(name.clone()) {
                return Err(format!("[[messages.slack]] name: {name:?} is empty, or used twice"));
            }
            if channel.trim().is_empty() {
                return Err(format!("[[messages.slack]] {name}: channel: name the channel's id"));
            }
            let api = api_url.as_deref().unwrap_or(SLACK).trim_end_matches('/');
            let api = secure(&format!("{api}/"))
                .map_err(|why| format!("[[messages.slack]] {name}: api_url: {why}"))?;
            Ok(Slack { name, channel, token_file: directory.join(token_file), api })
        });
        Ok(Self {
            slack: slack.collect::<Result<_, String>>()?,
            mail: raw.mail.map(|raw| mail::Settings::of(raw, directory)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let raw = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        Settings::of(raw, Path::new("/var/lib/jit-controller"))
    }

    const BOT: &str = "[[slack]]\nname = \"ops\"\nchannel = \"C024BE91L\"\ntoken_file = \"t\"\n";

    #[test]
    fn a_bot_is_read_and_its_file_is_beside_the_configuration() {
        let settings = read(BOT).unwrap();
        let [slack] = &settings.slack[..] else { panic!("one") };
        assert_eq!(slack.token_file, Path::new("/var/lib/jit-controller/t"));
        assert_eq!(
            slack.api.join("chat.update").unwrap().as_str(),
            "https://slack.com/api/chat.update"
        );
        assert!(settings.mail.is_none() && read("").unwrap().slack.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            (format!("{BOT}{BOT}"), "twice"),
            (BOT.replace("C024BE91L", " "), "channel"),
            (format!("{BOT}api_url = \"http://slack.example.org\"\n"), "https://"),
            (format!("{BOT}tokn = 1\n"), "tokn"),
            ("[mail]\nserver = \"mail\"\nfrom = \"jit@example.org\"\n".into(), "server"),
            ("[mail]\nserver = \"mail:25\"\nfrom = \"jit\"\n".into(), "from"),
            (
                "[mail]\nserver = \"mail.example.org:25\"\nfrom = \"jit@example.org\"\ntls = \"none\"\n"
                    .into(),
                "tls",
            ),
        ] {
            let why = read(&text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
