//! The man pages and shell completions that `cargo xtask pages` writes.

use std::{fs, path::Path, process::Command};

use clap::CommandFactory as _;
use jit_agent::cli::Arguments;

#[path = "../../packaging/pages.rs"]
mod pages;

/// The pages of `jit-agent` in a directory of their own.
fn written() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    pages::write(Arguments::command().name("jit-agent"), "8", directory.path()).unwrap();
    directory
}

/// The output of a program that must succeed and complain of nothing.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: `cargo xtask setup`"));
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.is_empty(), "{arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// A page as text, without bold and underlined letters. Any warning is an error.
fn shown(page: &Path) -> String {
    let plain = ["-man", "-Tascii", "-ww", "-P-c", "-P-b", "-P-o", "-P-u"];
    output("groff", &[&plain[..], &[page.to_str().unwrap()]].concat())
}

/// The commands below this one, all the way down: "jit-agent-audit-show".
fn names(command: &clap::Command, name: &str, all: &mut Vec<String>) {
    all.push(name.to_owned());
    for below in command.get_subcommands() {
        names(below, &format!("{name}-{}", below.get_name()), all);
    }
}

#[test]
fn each_command_has_a_man_page_that_groff_reads_without_a_complaint() {
    let directory = written();
    let mut all = Vec::new();
    names(&Arguments::command(), "jit-agent", &mut all);
    assert!(all.len() > 14, "{all:?}");
    for name in &all {
        let page = directory.path().join(format!("man/{name}.8"));
        let text = shown(&page);
        assert!(text.contains("SYNOPSIS") && text.contains("SEE ALSO"), "{name}: {text}");
    }
    let pages = fs::read_dir(directory.path().join("man")).unwrap().count();
    assert_eq!(pages, all.len(), "no page without a command");
}

#[test]
fn a_man_page_keeps_the_columns_of_the_examples() {
    let directory = written();
    let text = shown(&directory.path().join("man/jit-agent-why.8"));
    assert!(text.contains("Does 203.0.113.7 get in?      jit-agent why 203.0.113.7 22"), "{text}");
    assert!(text.contains("--user"), "{text}");
}

/// What bash offers for a line that ends here.
fn completed(file: &Path, words: &[&str]) -> Vec<String> {
    let script = format!(
        "source {}; COMP_WORDS=({}); COMP_CWORD={}; name=$(complete -p jit-agent); name=${{name#*-F }}; \
         ${{name%% *}} jit-agent \"${{COMP_WORDS[-1]}}\" \
         \"${{COMP_WORDS[-2]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display(),
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1
    );
    output("bash", &["--norc", "-c", &script]).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    let directory = written();
    let file = directory.path().join("completions/jit-agent.bash");
    assert_eq!(completed(&file, &["jit-agent", "stat"]), ["status"]);
    assert_eq!(completed(&file, &["jit-agent", "audit", "sh"]), ["show"]);
    let options = completed(&file, &["jit-agent", "why", "--"]);
    assert!(options.contains(&"--udp".into()) && options.contains(&"--user".into()), "{options:?}");
    for other in ["_jit-agent", "jit-agent.fish"] {
        let text = fs::read_to_string(directory.path().join("completions").join(other)).unwrap();
        assert!(text.contains("break-glass") && text.contains("udp"), "{other}");
    }
}
