//! `[store]`: a file of SQLite, or a server of Postgres.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use jit_proto::wrong::Wrongs;
use serde::Deserialize;

use crate::store::Store;

/// The file of SQLite where nothing else is said.
const DEFAULT: &str = "sqlite:controller.db";

/// `[store]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    url: Option<String>,
    password_file: Option<PathBuf>,
}

/// Where the database is.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A server.
    Postgres {
        /// Its URL.
        url: String,
        /// File with the password, if it is not in the URL.
        password_file: Option<PathBuf>,
    },
    /// A file.
    Sqlite(PathBuf),
}

impl Database {
    pub(super) fn of(raw: Raw, directory: &Path, wrongs: &mut Wrongs) -> Option<Self> {
        let Raw { url, password_file } = raw;
        let url = url.unwrap_or_else(|| DEFAULT.to_owned());
        let password_file = password_file.map(|file| directory.join(file));
        if let Some(file) = url.strip_prefix("sqlite:") {
            let file = file.strip_prefix("//").unwrap_or(file);
            if password_file.is_some() {
                wrongs.add("store.password_file", "[store] password_file: SQLite has no password");
            }
            if file.is_empty() || file.contains('?') || file.starts_with(':') {
                let what = "[store] url: write the path of a file, like \"sqlite:controller.db\"";
                wrongs.add("store.url", what);
                return None;
            }
            return Some(Self::Sqlite(directory.join(file)));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Some(Self::Postgres { url, password_file });
        }
        // A password may stand in it: only its beginning is shown.
        let scheme = url.split(':').next().unwrap_or_default();
        wrongs.add(
            "store.url",
            format!(
                "[store] url: {scheme:?} is no database that is known here; write \"{DEFAULT}\" or \
                 \"postgres://USER@HOST/DATABASE\""
            ),
        );
        None
    }

    /// The URL with its password.
    ///
    /// # Errors
    /// The file with the password cannot be read, in words.
    pub fn url(&self) -> Result<String, String> {
        match self {
            Self::Sqlite(file) => Ok(Store::sqlite_url(file)),
            Self::Postgres { url, password_file: None } => Ok(url.clone()),
            Self::Postgres { url, password_file: Some(file) } => {
                let password = fs::read_to_string(file).map_err(|error| {
                    format!("cannot read the database's password {}: {error}", file.display())
                })?;
                with_password(url, password.trim_end_matches(['\r', '\n'])).ok_or_else(|| {
                    "[store] url: with password_file it is postgres://USER@HOST/DATABASE, without \
                     a password"
                        .to_owned()
                })
            }
        }
    }
}

/// Without a password: it goes into logs and answers.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "SQLite {}", file.display()),
            Self::Postgres { url, .. } => {
                let rest = url.split_once("://").map_or("", |(_, rest)| rest);
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                write!(f, "Postgres {}", place.split('?').next().unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn with_password(url: &str, password: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (user, place) = rest.split_once('@')?;
    if user.is_empty() || user.contains(':') {
        return None;
    }
    // RFC 3986, section 2.1.
    let encoded: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
    Some(format!("{scheme}://{user}:{encoded}@{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_comes_from_its_file_and_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("pw"), "a:b@/%\n").unwrap();
        let raw = Raw {
            url: Some("postgres://ctl@db.example.org/ctl".into()),
            password_file: Some("pw".into()),
        };
        let mut wrongs = Wrongs::default();
        let database = Database::of(raw, directory.path(), &mut wrongs).unwrap();
        assert_eq!(database.url().unwrap(), "postgres://ctl:%61%3A%62%40%2F%25@db.example.org/ctl");
        let url = "postgres://ctl:secret@db.example.org/ctl?sslmode=require".to_owned();
        let database = Database::Postgres { url, password_file: None };
        let shown = format!("{database} {database:?}");
        assert!(!shown.contains("secret") && shown.contains("db.example.org/ctl"), "{shown}");
        assert_eq!(with_password("postgres://ctl:x@db/ctl", "y"), None);
    }

    #[test]
    fn what_is_no_database_is_refused_without_its_password() {
        let mut wrongs = Wrongs::default();
        for url in ["mysql://u:secret@h/d", "sqlite:", "sqlite::memory:", "sqlite:x?mode=ro", "x"] {
            let raw = Raw { url: Some(url.into()), password_file: None };
            assert_eq!(Database::of(raw, Path::new("/"), &mut wrongs), None, "{url}");
        }
        let texts: Vec<_> = wrongs.into_iter().map(|wrong| wrong.text).collect();
        assert!(texts.len() == 5 && texts.iter().all(|text| !text.contains("secret")), "{texts:?}");
    }
}
