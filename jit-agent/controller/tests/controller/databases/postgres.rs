//! One real server of Postgres for the test process, by an ordinary user: root cannot run it. It
//! listens on a socket in a directory of its own, and is ended and removed with the process, whichever
//! way that ends: a shell waits for the end of a pipe that only the process holds.

use std::{
    fs::{self, File, Permissions},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sqlx::{AnyConnection, Connection as _, Executor as _, any::install_default_drivers};

use super::Database;

const PROGRAMS: &str = "/usr/lib/postgresql";
/// Longest start of the server: the machine may be busy.
const START: Duration = Duration::from_secs(60);
/// Ends the server when its standard input ends, and removes its directory.
const UNTIL_END: &str = r#"
    trap "" INT TERM HUP
    "$1/postgres" -D "$2/data" -k "$2" >>"$2/log" 2>&1 </dev/null &
    server=$!
    read -r nothing
    kill -INT $server
    wait $server
    rm -rf "$2"
"#;
/// Only for tests: what was written is lost with the machine, which takes the test with it.
const SETTINGS: &str = "listen_addresses = ''\nfsync = off\nsynchronous_commit = off\n\
                        full_page_writes = off\nmax_connections = 400\nshared_buffers = 32MB\n\
                        autovacuum = off\n";

static SERVER: OnceLock<PathBuf> = OnceLock::new();
static GUARD: Mutex<Option<Child>> = Mutex::new(None);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// An empty database of the server.
pub(crate) async fn postgres() -> Database {
    let socket = tokio::task::spawn_blocking(|| SERVER.get_or_init(start)).await.unwrap();
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    install_default_drivers();
    let mut server = AnyConnection::connect(&url(socket, "postgres")).await.unwrap();
    let create = format!("CREATE DATABASE {name}");
    server.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    server.close().await.unwrap();
    Database::new(|_| url(socket, &name))
}

fn url(socket: &Path, database: &str) -> String {
    format!("postgres://controller@localhost/{database}?host={}", socket.display())
}

/// The directory of the newest server's programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir(PROGRAMS).into_iter().flatten().flatten();
    let with_server = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let programs = version.path().join("bin");
        (programs.join("initdb").exists() && programs.join("postgres").exists())
            .then_some((number, programs))
    });
    let newest = with_server.max_by_key(|(number, _)| *number);
    let (_, programs) = newest.unwrap_or_else(|| {
        panic!(
            "no server of Postgres below {PROGRAMS}: these tests run on it too; \
             `cargo xtask setup` installs it (the package `postgresql`)"
        )
    });
    programs
}

/// Starts the server. Returns the directory of its socket.
fn start() -> PathBuf {
    let programs = programs();
    let directory = tempfile::Builder::new().prefix("jit-postgres-").tempdir().unwrap().keep();
    // Postgres refuses to be root: `nobody` owns the directory, and nothing else.
    let is_root = fs::metadata(&directory).unwrap().uid() == 0;
    let ordinary = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(&directory).stdin(Stdio::null()).process_group(0);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    if is_root {
        chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    let log = directory.join("log");
    let output = || Stdio::from(File::options().append(true).create(true).open(&log).unwrap());
    let (first, second) = (output(), output());
    if is_root {
        chown(&log, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let read_log = || fs::read_to_string(&log).unwrap_or_default();
    let mut init = ordinary(&programs.join("initdb"));
    init.args(["--no-sync", "--auth=trust", "--username=controller", "--encoding=UTF8"]);
    init.args(["--locale=C", "--pgdata"]).arg(directory.join("data"));
    let made = init.stdout(first).stderr(second).status().unwrap();
    assert!(made.success(), "initdb: {made}\n{}", read_log());
    let settings = directory.join("data/postgresql.auto.conf");
    fs::write(&settings, SETTINGS).unwrap();
    let mut guard = ordinary(Path::new("/bin/sh"));
    guard.args(["-c", UNTIL_END, "sh"]).arg(&programs).arg(&directory);
    guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    *GUARD.lock().unwrap() = Some(guard.spawn().unwrap());
    let begun = Instant::now();
    let ready = directory.join("data/postmaster.pid");
    // The last line of that file says when connections are let in.
    while !fs::read_to_string(&ready).is_ok_and(|text| text.contains("ready")) {
        assert!(begun.elapsed() < START, "Postgres does not start:\n{}", read_log());
        thread::sleep(Duration::from_millis(20));
    }
    directory
}

/// The account without rights, on every Linux (`kernel.overflowuid`).
const NOBODY: u32 = 65534;
