//! Runs another program that only reads, and takes what it prints.
//!
//! It is looked for in the system's own directories alone, not in `$PATH`, and gets no environment:
//! root runs it.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Longest run of a program.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes that are taken of what it prints, and of its errors.
const MOST: u64 = 64 << 20;
const MOST_ERRORS: u64 = 4096;

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is no such program.
    #[error("there is no `{0}` on this host")]
    Missing(String),
    /// It could not be run.
    #[error("cannot run `{name}`: {error}")]
    Run {
        /// The program.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// It failed.
    #[error("`{name}` fails: {said}")]
    Failed {
        /// The program.
        name: String,
        /// The first line of its errors.
        said: String,
    },
}

/// What the first of these programs that exists prints.
///
/// # Errors
/// None exists, or it fails, or it does not end in time.
pub fn output(names: &[&str], arguments: &[&str]) -> Result<String, ToolError> {
    let Some((name, program)) = names.iter().find_map(|name| Some((*name, find(name)?))) else {
        return Err(ToolError::Missing((*names.first().unwrap_or(&"")).to_owned()));
    };
    let failed = |error| ToolError::Run { name: name.to_owned(), error };
    let (text, errors, status) = run(&program, arguments).map_err(failed)?;
    if status.success() {
        return Ok(text);
    }
    let said = errors.lines().next().map_or_else(|| status.to_string(), str::to_owned);
    Err(ToolError::Failed { name: name.to_owned(), said })
}

fn find(name: &str) -> Option<PathBuf> {
    let paths = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
    paths.into_iter().find(|path| path.is_file())
}

fn run(program: &Path, arguments: &[&str]) -> io::Result<(String, String, ExitStatus)> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let errors = scope.spawn(|| take(errors, MOST_ERRORS));
        let output = scope.spawn(|| take(output, MOST));
        let status = wait(&mut child)?;
        let ended = "a thread that only reads does not panic";
        Ok((output.join().expect(ended)?, errors.join().expect(ended)?, status))
    })
}

fn take(from: Option<impl io::Read>, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.map_or(Ok(0), |from| from.take(most).read_to_end(&mut bytes))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for its end, or ends it.
fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()?;
    Err(io::Error::other(format!("it does not end within {PATIENCE:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_prints_is_taken_whole() {
        let lines = output(&["no-such-program", "seq"], &["100000"]).unwrap();
        assert_eq!(lines.lines().count(), 100_000);
    }

    #[test]
    fn a_program_that_is_missing_or_fails_is_an_error_that_names_it() {
        let missing = output(&["no-such-program"], &[]).unwrap_err();
        assert!(matches!(missing, ToolError::Missing(_)), "{missing}");
        let failed = output(&["ls"], &["/no/such/directory"]).unwrap_err().to_string();
        assert!(failed.starts_with("`ls` fails: ") && failed.contains("/no/such"), "{failed}");
    }
}
