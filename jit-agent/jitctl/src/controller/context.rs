//! Logins as files: which controllers there are (`config.toml`), and the tokens (`tokens.toml`).
//!
//! A file that others can change could send the token elsewhere, and a file that others can read gives
//! it away: neither is used. Files are replaced as a whole, so that nobody reads half of one.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{DirBuilder, File},
    io::{ErrorKind, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use jit_client::controller::http::Token;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    process::geteuid,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    failure::Failure,
    files::{self, PRIVATE},
};

const CONFIG: &str = "config.toml";
const TOKENS: &str = "tokens.toml";
/// The largest file that is read, bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// The longest name of a login, letters.
const MAX_NAME: usize = 64;

/// One login, without its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    /// The controller's address.
    pub(super) url: String,
    /// Who logged in: the account.
    #[serde(default)]
    pub(super) account: String,
    /// PEM of the CAs that may have issued the controller's certificate; `None`: this machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca: Option<String>,
}

/// All logins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    /// The one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    #[serde(default)]
    pub(super) contexts: BTreeMap<String, Context>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    #[serde(default)]
    tokens: BTreeMap<String, String>,
}

/// The directory of the logins.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// `jitctl` below XDG_CONFIG_HOME, or below `.config` in the home directory.
    pub(super) fn of(env: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        // The XDG specification: a relative path is to be ignored.
        let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")))
            .ok_or_else(|| {
                Failure::usage(
                    "where are your logins? Neither HOME nor XDG_CONFIG_HOME names a directory; \
                     set one, or use --controller URL with JITCTL_TOKEN",
                )
            })?;
        Ok(Self(base.join("jitctl")))
    }

    /// The logins; none if there is no file.
    pub(super) fn contexts(&self) -> Result<Contexts, Failure> {
        self.parse(CONFIG, 0o022)
    }

    /// The token of a login; `None`: it is logged out.
    pub(super) fn token(&self, name: &str) -> Result<Option<Token>, Failure> {
        let tokens: Tokens = self.parse(TOKENS, 0o077)?;
        let token = tokens.tokens.get(name).map(|text| Token::parse(text));
        token.transpose().map_err(|why| {
            Failure::files(format!("{}: {name}: {why}; log in again", self.path(TOKENS).display()))
        })
    }

    /// Changes the logins, one change at a time.
    pub(super) fn change(&self, change: impl FnOnce(&mut Contexts)) -> Result<Contexts, Failure> {
        let _lock = self.lock()?;
        let mut contexts = self.contexts()?;
        change(&mut contexts);
        self.write(CONFIG, &contexts)?;
        Ok(contexts)
    }

    /// Notes the token of a login, or forgets it. Returns whether there was one.
    pub(super) fn set_token(&self, name: &str, token: Option<&Token>) -> Result<bool, Failure> {
        let _lock = self.lock()?;
        let mut tokens: Tokens = self.parse(TOKENS, 0o077)?;
        let before = match token {
            Some(token) => tokens.tokens.insert(name.to_owned(), token.expose().to_owned()),
            None => tokens.tokens.remove(name),
        };
        if token.is_some() || before.is_some() {
            self.write(TOKENS, &tokens)?;
        }
        Ok(before.is_some())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn parse<T: Default + DeserializeOwned>(&self, file: &str, open: u32) -> Result<T, Failure> {
        let path = self.path(file);
        let Some(text) = read_own(&path, open)? else { return Ok(T::default()) };
        toml::from_str(&text).map_err(|error| {
            // The error quotes the line, which may be a token.
            let why =
                if file == TOKENS { "it is no list of tokens".into() } else { error.to_string() };
            Failure::files(format!(
                "cannot use {}: {why}; mend it, or remove it and log in again",
                path.display()
            ))
        })
    }

    /// Others wait until it is dropped.
    fn lock(&self) -> Result<File, Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::files(format!("cannot {what} {}: {error}", self.0.display()))
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|error| failed("make the directory", error))?;
        let lock = File::open(&self.0).map_err(|error| failed("open the directory", error))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock the directory", error.into()))?;
        Ok(lock)
    }

    fn write(&self, file: &str, value: &impl Serialize) -> Result<(), Failure> {
        let path = self.path(file);
        let failed = |error: &dyn std::fmt::Display| {
            Failure::files(format!("cannot write {}: {error}", path.display()))
        };
        let text = toml::to_string(value).map_err(|error| failed(&error))?;
        let fresh = files::with_suffix(&path, &format!(".{}", std::process::id()));
        // One with this name is from a process that was killed, and had the same number.
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        files::write_new(&fresh, text.as_bytes(), PRIVATE)?;
        std::fs::rename(&fresh, &path).map_err(|error| failed(&error))?;
        let synced = File::open(&self.0).and_then(|directory| directory.sync_all());
        synced.map_err(|error| failed(&error))
    }
}

/// The text of a file of this user; `None`: there is none. `open`: the permissions that it must not
/// give.
fn read_own(path: &Path, open: u32) -> Result<Option<String>, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::files(format!("cannot use {}: {why}", path.display()))
    };
    // A pipe in its place must not hang the command.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if !metadata.is_file() {
        return Err(failed(&"it is not a regular file"));
    }
    if metadata.uid() != geteuid().as_raw() && metadata.uid() != 0 {
        return Err(failed(&format!("it belongs to the user {}", metadata.uid())));
    }
    if metadata.mode() & open != 0 {
        return Err(failed(&format!(
            "others have access to it (mode {:04o}); look at what it says, and run chmod 600 on it",
            metadata.mode() & 0o7777
        )));
    }
    let mut text = String::new();
    if metadata.len() > MAX_BYTES {
        return Err(failed(&format!("it is larger than {MAX_BYTES} bytes")));
    }
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| failed(&error))?;
    Ok(Some(text))
}

/// A name for a login.
pub(super) fn parse_name(name: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if begins && name.len() <= MAX_NAME && name.bytes().all(good) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "`{name}` is no name of a login: 1 to {MAX_NAME} letters a-z, digits, `.`, `_`, `-`"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use jit_client::exit::Exit;

    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().as_os_str().to_owned();
        let place = Place::of(|name| (name == "HOME").then(|| home.clone())).unwrap();
        (dir, place)
    }

    fn prod() -> Context {
        Context { url: "https://c.example".into(), account: "ana".into(), ca: None }
    }

    fn with_prod(place: &Place) {
        place
            .change(|all| {
                all.contexts.insert("prod".into(), prod());
                all.current = Some("prod".into());
            })
            .unwrap();
        place.set_token("prod", Some(&Token::parse("jit_secret").unwrap())).unwrap();
    }

    #[test]
    fn logins_are_read_back_and_only_their_user_can_read_them() {
        let (dir, place) = place();
        assert_eq!(place.contexts().unwrap(), Contexts::default());
        assert_eq!(place.token("prod").unwrap(), None);
        with_prod(&place);
        let at = dir.path().join(".config/jitctl");
        for (file, mode) in [(CONFIG, 0o600), (TOKENS, 0o600), ("", 0o700)] {
            assert_eq!(at.join(file).metadata().unwrap().mode() & 0o777, mode, "{file}");
        }
        assert_eq!(place.contexts().unwrap().contexts["prod"], prod());
        assert_eq!(place.token("prod").unwrap().unwrap().expose(), "jit_secret");
        assert!(!std::fs::read_to_string(at.join(CONFIG)).unwrap().contains("secret"));
        assert!(place.set_token("prod", None).unwrap());
        assert!(!place.set_token("prod", None).unwrap());
        assert_eq!(place.token("prod").unwrap(), None);
        assert_eq!(at.read_dir().unwrap().count(), 2, "nothing else is left there");
    }

    #[test]
    fn a_file_that_others_can_change_or_read_is_not_used() {
        let (dir, place) = place();
        with_prod(&place);
        let at = dir.path().join(".config/jitctl");
        let set = |file: &str, mode| {
            std::fs::set_permissions(at.join(file), PermissionsExt::from_mode(mode)).unwrap();
        };
        set(CONFIG, 0o644);
        assert!(place.contexts().is_ok(), "it holds nothing secret");
        for mode in [0o620, 0o602] {
            set(CONFIG, mode);
            let failure = place.contexts().unwrap_err();
            assert_eq!(failure.exit, Exit::Configuration);
            assert!(failure.to_string().contains("chmod 600"), "{failure}");
        }
        for mode in [0o640, 0o604, 0o610] {
            set(TOKENS, mode);
            assert!(place.token("prod").unwrap_err().to_string().contains("chmod 600"));
            // Nor is it replaced, so that somebody looks at it.
            assert!(place.set_token("x", Some(&Token::parse("t").unwrap())).is_err());
        }
    }

    #[test]
    fn a_hostile_file_is_an_error_and_quotes_no_token() {
        let (dir, place) = place();
        with_prod(&place);
        let at = dir.path().join(".config/jitctl");
        let tokens = at.join(TOKENS);
        let put = |bytes: &[u8]| {
            std::fs::remove_file(&tokens).unwrap();
            files::write_new(&tokens, bytes, PRIVATE).unwrap();
        };
        for bad in [
            &b"[tokens]\nprod = jit_secret"[..],
            b"prod = 'jit_secret'",
            b"\xff\xfe",
            b"[tokens]\nprod = 'a b'",
        ] {
            put(bad);
            let failure = place.token("prod").unwrap_err();
            assert_eq!(failure.exit, Exit::Configuration);
            assert!(!failure.to_string().contains("secret"), "{failure}");
        }
        put(b"");
        File::options().write(true).open(&tokens).unwrap().set_len(1 << 40).unwrap();
        assert!(place.token("prod").unwrap_err().to_string().contains("larger"));
        std::fs::remove_file(&tokens).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &tokens, fifo, Mode::RUSR, 0).unwrap();
        assert!(place.token("prod").unwrap_err().to_string().contains("regular"));
        std::fs::remove_file(&tokens).unwrap();
        symlink("/dev/zero", &tokens).unwrap();
        assert!(place.token("prod").is_err());
    }

    #[test]
    fn a_relative_configuration_directory_is_ignored() {
        let env = |name: &str| match name {
            "XDG_CONFIG_HOME" => Some(OsString::from("here")),
            "HOME" => Some(OsString::from("/home/ana")),
            _ => None,
        };
        assert_eq!(Place::of(env).unwrap().0, Path::new("/home/ana/.config/jitctl"));
        let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| OsString::from("/cfg"));
        assert_eq!(Place::of(env).unwrap().0, Path::new("/cfg/jitctl"));
        assert_eq!(Place::of(|_| None).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn names_have_plain_letters() {
        for good in ["prod", "c.example.org", "eu_1-b"] {
            assert!(parse_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".x", "-x", "a b", "a/b", "é", &"x".repeat(65)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
